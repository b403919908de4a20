package data

import (
	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	"google.golang.org/protobuf/encoding/protowire"
)

// Field numbers of org.apache.beam.model.fn_execution.v1.StateResponse and StateGetResponse.
const (
	responseID  protowire.Number = 1
	responseGet protowire.Number = 1000

	getToken protowire.Number = 1
	getData  protowire.Number = 2
)

// pageHeader encodes a page of state up to its data, which are its last bytes. It
// returns false for all other responses.
func pageHeader(r *fnpb.StateResponse) ([]byte, bool) {
	page, ok := r.GetResponse().(*fnpb.StateResponse_Get)
	if !ok || r.GetError() != "" || len(page.Get.GetData()) == 0 {
		return nil, false
	}
	token := page.Get.GetContinuationToken()
	size := protowire.SizeTag(getData) + protowire.SizeBytes(len(page.Get.GetData()))
	if len(token) > 0 {
		size += protowire.SizeTag(getToken) + protowire.SizeBytes(len(token))
	}
	h := protowire.AppendTag(nil, responseID, protowire.BytesType)
	h = protowire.AppendString(h, r.GetId())
	h = protowire.AppendTag(h, responseGet, protowire.BytesType)
	h = protowire.AppendVarint(h, uint64(size))
	if len(token) > 0 {
		h = protowire.AppendTag(h, getToken, protowire.BytesType)
		h = protowire.AppendBytes(h, token)
	}
	h = protowire.AppendTag(h, getData, protowire.BytesType)
	return protowire.AppendVarint(h, uint64(len(page.Get.GetData()))), true
}
