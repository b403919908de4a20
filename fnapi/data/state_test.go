package data

import (
	"bytes"
	"testing"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"
)

func TestStateResponsesAreEncodedAsProtobufHasIt(t *testing.T) {
	codec := NewCodec()
	rapid.Check(t, func(t *rapid.T) {
		want := &fnpb.StateResponse{Id: rapid.String().Draw(t, "id")}
		switch rapid.IntRange(0, 4).Draw(t, "kind") {
		case 0:
			want.Error = rapid.String().Draw(t, "error")
		case 1:
			want.Response = &fnpb.StateResponse_Append{Append: &fnpb.StateAppendResponse{}}
		default:
			get := &fnpb.StateGetResponse{}
			get.Data = bytes.Repeat([]byte("d"), rapid.SampledFrom([]int{0, 1, 127, 128, 1 << 20}).Draw(t, "data"))
			get.ContinuationToken = bytes.Repeat([]byte("t"), rapid.SampledFrom([]int{0, 1, 200}).Draw(t, "token"))
			want.Response = &fnpb.StateResponse_Get{Get: get}
		}
		encoded, err := codec.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		got := &fnpb.StateResponse{}
		if err := proto.Unmarshal(encoded.Materialize(), got); err != nil {
			t.Fatal(err)
		}
		if !proto.Equal(got, want) {
			t.Fatalf("got %.300v, want %.300v", got, want)
		}
	})
}
