package data

import (
	"bytes"
	"testing"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"
)

func TestStateResponsesAreEncodedAsProtobufHasIt(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		id := rapid.String().Draw(t, "id")
		want := &fnpb.StateResponse{Id: id}
		var encoded []byte
		switch rapid.IntRange(0, 4).Draw(t, "kind") {
		case 0:
			want.Error = rapid.String().Draw(t, "error")
			encoded = AppendStateError(nil, []byte(id), want.Error)
		case 1:
			want.Response = &fnpb.StateResponse_Append{Append: &fnpb.StateAppendResponse{}}
			encoded = AppendStateDone(nil, []byte(id), StateAppend)
		case 2:
			want.Response = &fnpb.StateResponse_Clear{Clear: &fnpb.StateClearResponse{}}
			encoded = AppendStateDone(nil, []byte(id), StateClear)
		default:
			get := &fnpb.StateGetResponse{}
			get.Data = bytes.Repeat([]byte("d"), rapid.SampledFrom([]int{0, 1, 127, 128, 1 << 20}).Draw(t, "data"))
			get.ContinuationToken = bytes.Repeat([]byte("t"), rapid.SampledFrom([]int{0, 1, 200}).Draw(t, "token"))
			want.Response = &fnpb.StateResponse_Get{Get: get}
			encoded = append(AppendStatePage(nil, []byte(id), len(get.Data), get.ContinuationToken), get.Data...)
		}
		got := &fnpb.StateResponse{}
		if err := proto.Unmarshal(encoded, got); err != nil {
			t.Fatal(err)
		}
		if !proto.Equal(got, want) {
			t.Fatalf("got %.300v, want %.300v", got, want)
		}
	})
}

// One reader reads all requests, so that what is left of one would show in the next.
func TestStateRequestsAreReadAsProtobufHasThem(t *testing.T) {
	text := rapid.StringMatching("[a-cé]{0,3}")
	some := rapid.SliceOfN(rapid.Byte(), 0, 3)
	rapid.Check(t, func(t *rapid.T) {
		var reader StateReader
		for range 5 {
			want := &fnpb.StateRequest{Id: text.Draw(t, "id"), InstructionId: text.Draw(t, "instruction"), StateKey: drawKey(t, text, some)}
			payload := some.Draw(t, "payload")
			switch rapid.IntRange(0, 3).Draw(t, "kind") {
			case 0:
				want.Request = &fnpb.StateRequest_Get{Get: &fnpb.StateGetRequest{ContinuationToken: payload}}
			case 1:
				want.Request = &fnpb.StateRequest_Append{Append: &fnpb.StateAppendRequest{Data: payload}}
			case 2:
				want.Request = &fnpb.StateRequest_Clear{Clear: &fnpb.StateClearRequest{}}
			}
			message, err := proto.Marshal(want)
			if err != nil {
				t.Fatal(err)
			}
			read, err := reader.Read(message)
			if err != nil {
				t.Fatal(err)
			}
			got := &fnpb.StateRequest{Id: string(read.ID), InstructionId: string(read.Instruction), StateKey: read.Key}
			switch read.Kind {
			case StateGet:
				got.Request = &fnpb.StateRequest_Get{Get: &fnpb.StateGetRequest{ContinuationToken: read.Payload}}
			case StateAppend:
				got.Request = &fnpb.StateRequest_Append{Append: &fnpb.StateAppendRequest{Data: read.Payload}}
			case StateClear:
				got.Request = &fnpb.StateRequest_Clear{Clear: &fnpb.StateClearRequest{}}
			}
			if !proto.Equal(got, want) {
				t.Fatalf("got %v, want %v", got, want)
			}
		}
	})
}

func drawKey(t *rapid.T, text *rapid.Generator[string], some *rapid.Generator[[]byte]) *fnpb.StateKey {
	transform, name := text.Draw(t, "transform"), text.Draw(t, "name")
	window, key := some.Draw(t, "window"), some.Draw(t, "key")
	switch rapid.IntRange(0, 4).Draw(t, "key kind") {
	case 0:
		return nil
	case 1:
		return &fnpb.StateKey{}
	case 2:
		return &fnpb.StateKey{Type: &fnpb.StateKey_BagUserState_{BagUserState: &fnpb.StateKey_BagUserState{
			TransformId: transform, UserStateId: name, Window: window, Key: key}}}
	case 3:
		return &fnpb.StateKey{Type: &fnpb.StateKey_MultimapSideInput_{MultimapSideInput: &fnpb.StateKey_MultimapSideInput{
			TransformId: transform, SideInputId: name, Window: window, Key: key}}}
	default:
		return &fnpb.StateKey{Type: &fnpb.StateKey_Runner_{Runner: &fnpb.StateKey_Runner{Key: key}}}
	}
}

func FuzzStateRequest(f *testing.F) {
	for _, key := range []*fnpb.StateKey{
		{Type: &fnpb.StateKey_BagUserState_{BagUserState: &fnpb.StateKey_BagUserState{TransformId: "t", UserStateId: "s", Window: []byte{1}, Key: []byte("key")}}},
		{Type: &fnpb.StateKey_MultimapKeysUserState_{MultimapKeysUserState: &fnpb.StateKey_MultimapKeysUserState{TransformId: "t"}}},
	} {
		seed, err := proto.Marshal(&fnpb.StateRequest{Id: "1", InstructionId: "i", StateKey: key,
			Request: &fnpb.StateRequest_Append{Append: &fnpb.StateAppendRequest{Data: []byte("data")}}})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, message []byte) {
		var reader StateReader
		got, err := reader.Read(message)
		if err != nil {
			return
		}
		if _, err := proto.Marshal(got.Key); err != nil {
			t.Errorf("a key that is not whole: %v", err)
		}
	})
}
