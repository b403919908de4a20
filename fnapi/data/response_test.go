package data

import (
	"testing"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"
)

// whole puts together what ReadResponse takes apart.
func whole(message []byte) (*fnpb.InstructionResponse, error) {
	resp, entries, err := ReadResponse(message)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		pb := resp.GetProcessBundle()
		if pb == nil { // another response has taken its place
			break
		}
		if pb.MonitoringData == nil {
			pb.MonitoringData = map[string][]byte{}
		}
		pb.MonitoringData[string(e.ID)] = e.Payload
	}
	return resp, nil
}

func TestResponsesAreReadAsProtobufHasThem(t *testing.T) {
	text := rapid.StringMatching("[a-cé]{0,3}")
	rapid.Check(t, func(t *rapid.T) {
		want := &fnpb.InstructionResponse{InstructionId: text.Draw(t, "id"), Error: text.Draw(t, "error")}
		switch rapid.IntRange(0, 3).Draw(t, "kind") {
		case 0:
			want.Response = &fnpb.InstructionResponse_FinalizeBundle{FinalizeBundle: &fnpb.FinalizeBundleResponse{}}
		case 1:
		default:
			want.Response = &fnpb.InstructionResponse_ProcessBundle{ProcessBundle: &fnpb.ProcessBundleResponse{
				RequiresFinalization: rapid.Bool().Draw(t, "finalization"),
				ResidualRoots:        []*fnpb.DelayedBundleApplication{{Application: &fnpb.BundleApplication{TransformId: text.Draw(t, "root")}}},
				MonitoringData:       rapid.MapOfN(text, rapid.SliceOfN(rapid.Byte(), 0, 3), 0, 100).Draw(t, "data"),
			}}
		}
		message, err := proto.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		got, err := whole(message)
		if err != nil {
			t.Fatal(err)
		}
		if !proto.Equal(got, want) {
			t.Fatalf("got %v, want %v", got, want)
		}
	})
}

func FuzzResponse(f *testing.F) {
	entry := func(id, payload string) []byte {
		b := protowire.AppendString(protowire.AppendTag(nil, entryKey, protowire.BytesType), id)
		return protowire.AppendString(protowire.AppendTag(b, entryValue, protowire.BytesType), payload)
	}
	var bundle []byte
	for _, e := range [][]byte{entry("a", "1"), entry("b", "2"), entry("a", "3"), nil} {
		bundle = protowire.AppendBytes(protowire.AppendTag(bundle, bundleMonitoringData, protowire.BytesType), e)
	}
	message := protowire.AppendBytes(protowire.AppendTag(nil, responseProcessBundle, protowire.BytesType), bundle)
	f.Add(message)
	f.Add(append(message, message...))
	f.Add([]byte("\x0a\x02i1\xca\x3e\x05\x2a\x03\x0a\x01a"))
	f.Fuzz(func(t *testing.T, message []byte) {
		want := new(fnpb.InstructionResponse)
		wantErr := proto.Unmarshal(message, want)
		got, err := whole(message)
		switch {
		case err == nil && wantErr == nil:
			if a, b := want.GetProcessBundle().GetMonitoringData(), got.GetProcessBundle().GetMonitoringData(); len(a) != len(b) && len(want.ProtoReflect().GetUnknown()) == 0 {
				t.Errorf("got %v, want %v", got, want)
			}
		case wantErr == nil:
			t.Errorf("refused: %v", err)
		}
	})
}
