package data

import (
	"bytes"
	"slices"
	"testing"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"pgregory.net/rapid"

	"github.com/lintelrun/lintel/internal/fault"
)

// rebuild makes the protobuf message that Parts saw.
func rebuild(message []byte) (*fnpb.Elements, error) {
	e := &fnpb.Elements{}
	for p, err := range Parts(message) {
		if err != nil {
			return nil, err
		}
		if len(p.Family) > 0 {
			e.Timers = append(e.Timers, &fnpb.Elements_Timers{InstructionId: string(p.Instruction), TransformId: string(p.Transform),
				TimerFamilyId: string(p.Family), Timers: p.Payload, IsLast: p.Last})
		} else {
			e.Data = append(e.Data, &fnpb.Elements_Data{InstructionId: string(p.Instruction), TransformId: string(p.Transform),
				Data: p.Payload, IsLast: p.Last})
		}
	}
	return e, nil
}

func anyElements(t *rapid.T) *fnpb.Elements {
	name := rapid.StringMatching(`[a-z]{1,200}`)
	payload := rapid.SliceOfN(rapid.Byte(), 0, 300)
	e := &fnpb.Elements{}
	for range rapid.IntRange(0, 4).Draw(t, "data") {
		e.Data = append(e.Data, &fnpb.Elements_Data{InstructionId: name.Draw(t, "instruction"), TransformId: name.Draw(t, "transform"),
			Data: payload.Draw(t, "payload"), IsLast: rapid.Bool().Draw(t, "last")})
	}
	for range rapid.IntRange(0, 4).Draw(t, "timers") {
		e.Timers = append(e.Timers, &fnpb.Elements_Timers{InstructionId: name.Draw(t, "instruction"), TransformId: name.Draw(t, "transform"),
			TimerFamilyId: name.Draw(t, "family"), Timers: payload.Draw(t, "payload"), IsLast: rapid.Bool().Draw(t, "last")})
	}
	return e
}

func TestPartsReadWhatProtobufWrites(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := anyElements(t)
		message, err := proto.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		got, err := rebuild(message)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
			t.Fatalf("parts (-want +got):\n%s", diff)
		}
	})
}

func TestProtobufReadsMessages(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.StringMatching(`[a-z]{1,200}`)
		instruction := name.Draw(t, "instruction")
		to := Target{Transform: name.Draw(t, "transform")}
		want := &fnpb.Elements{}
		payload := rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "payload")
		if rapid.Bool().Draw(t, "timer") {
			to.Family = name.Draw(t, "family")
			want.Timers = []*fnpb.Elements_Timers{{InstructionId: instruction, TransformId: to.Transform, TimerFamilyId: to.Family, Timers: payload}}
		} else {
			want.Data = []*fnpb.Elements_Data{{InstructionId: instruction, TransformId: to.Transform, Data: payload}}
		}
		m := NewMessage(instruction, to, payload)
		if len(m[0]) != cap(m[0]) {
			t.Errorf("header of %d bytes was given room for %d", len(m[0]), cap(m[0]))
		}
		wantWire(t, m, want)
	})
}

func TestTerminatorsTravelTogetherAndEmpty(t *testing.T) {
	m := NewTerminators("i1", []Target{{"p", "f"}, {"p", "g"}, {"source", ""}})
	wantWire(t, m, &fnpb.Elements{
		Timers: []*fnpb.Elements_Timers{
			{InstructionId: "i1", TransformId: "p", TimerFamilyId: "f", IsLast: true},
			{InstructionId: "i1", TransformId: "p", TimerFamilyId: "g", IsLast: true},
		},
		Data: []*fnpb.Elements_Data{{InstructionId: "i1", TransformId: "source", IsLast: true}},
	})
}

func TestJoinedMessagesAreOne(t *testing.T) {
	source := Target{Transform: "source"}
	m := Join(NewMessage("i1", source, []byte("ab")), NewMessage("i1", Target{"p", "f"}, []byte("t")), NewMessage("i1", source, []byte("c")),
		NewTerminators("i1", []Target{{"p", "f"}, source}))
	wantWire(t, m, &fnpb.Elements{
		Timers: []*fnpb.Elements_Timers{
			{InstructionId: "i1", TransformId: "p", TimerFamilyId: "f", Timers: []byte("t")},
			{InstructionId: "i1", TransformId: "p", TimerFamilyId: "f", IsLast: true},
		},
		Data: []*fnpb.Elements_Data{
			{InstructionId: "i1", TransformId: "source", Data: []byte("ab")},
			{InstructionId: "i1", TransformId: "source", Data: []byte("c")},
			{InstructionId: "i1", TransformId: "source", IsLast: true},
		},
	})
}

func wantWire(t rapid.TB, m Message, want *fnpb.Elements) {
	t.Helper()
	got := &fnpb.Elements{}
	if err := proto.Unmarshal(slices.Concat(m...), got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Fatalf("on the wire (-want +got):\n%s", diff)
	}
}

func TestPayloadIsNotCopied(t *testing.T) {
	payload := bytes.Repeat([]byte("x"), 1<<20)
	m := NewMessage("i1", Target{Transform: "sink"}, payload)
	if last := m[len(m)-1]; &last[0] != &payload[0] {
		t.Error("the payload on its way out is a copy")
	}
	message := slices.Concat(m...)
	for p, err := range Parts(message) {
		if err != nil {
			t.Fatal(err)
		}
		if &p.Payload[0] != &message[len(message)-len(payload)] {
			t.Error("the payload on its way in is a copy")
		}
	}
}

func TestUnknownFieldsArePassedOver(t *testing.T) {
	inner := protowire.AppendTag(nil, 99, protowire.Fixed64Type)
	inner = protowire.AppendFixed64(inner, 7)
	inner = protowire.AppendTag(inner, 3, protowire.BytesType)
	inner = protowire.AppendString(inner, "payload")
	message := protowire.AppendTag(nil, 1, protowire.BytesType)
	message = protowire.AppendBytes(message, inner)
	message = protowire.AppendTag(message, 50, protowire.BytesType)
	message = protowire.AppendString(message, "from a later version")
	got, err := rebuild(message)
	if err != nil || len(got.GetData()) != 1 || string(got.GetData()[0].GetData()) != "payload" {
		t.Errorf("got %v, %v", got, err)
	}
}

func TestBadBytesAreInvalid(t *testing.T) {
	good, _ := proto.Marshal(&fnpb.Elements{Data: []*fnpb.Elements_Data{{InstructionId: "i", TransformId: "t", Data: []byte("xyz")}}})
	noFamily, _ := proto.Marshal(&fnpb.Elements{Timers: []*fnpb.Elements_Timers{{InstructionId: "i", TransformId: "t", Timers: []byte("xyz")}}})
	for name, message := range map[string][]byte{
		"truncated":                 good[:len(good)-1],
		"length beyond the message": {0x0a, 0x7f, 0x01},
		"data is a number":          {0x08, 0x01},
		"instruction is a number":   {0x0a, 0x02, 0x08, 0x01},
		"is_last is a string":       {0x0a, 0x02, 0x22, 0x00},
		"field number zero":         {0x02, 0x00},
		"endless varint":            bytes.Repeat([]byte{0xff}, 11),
		"timers without a family":   noFamily,
	} {
		if _, err := rebuild(message); fault.ClassOf(err) != fault.Invalid || err == nil {
			t.Errorf("%s: got error %v, want one of class Invalid", name, err)
		}
	}
}

func FuzzParts(f *testing.F) {
	seed, _ := proto.Marshal(&fnpb.Elements{
		Data:   []*fnpb.Elements_Data{{InstructionId: "i", TransformId: "t", Data: []byte("xyz")}, {InstructionId: "i", TransformId: "t", IsLast: true}},
		Timers: []*fnpb.Elements_Timers{{InstructionId: "i", TransformId: "t", TimerFamilyId: "f", Timers: []byte("xyz"), IsLast: true}},
	})
	f.Add(seed)
	f.Add(seed[:len(seed)-2])
	f.Add([]byte{0x0b, 0x0c})
	f.Fuzz(func(t *testing.T, message []byte) {
		got, err := rebuild(message)
		want := &fnpb.Elements{}
		wantErr := proto.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(message, want)
		if err != nil {
			if fault.ClassOf(err) != fault.Invalid {
				t.Errorf("error of class %v: %v", fault.ClassOf(err), err)
			}
			return
		}
		if wantErr != nil { // we are laxer about UTF-8 only, as ids are just compared
			return
		}
		if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
			t.Errorf("not as protobuf reads it (-want +got):\n%s", diff)
		}
	})
}
