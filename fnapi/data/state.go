package data

import (
	"strings"
	"unicode/utf8"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/lintelrun/lintel/internal/fault"
)

// Field numbers of org.apache.beam.model.fn_execution.v1.StateRequest, StateKey, the two kinds
// of keys that are asked for most, StateResponse and StateGetResponse.
const (
	stateID          protowire.Number = 1
	stateInstruction protowire.Number = 2
	stateKey         protowire.Number = 3
	stateError       protowire.Number = 2

	keyMultimapSide protowire.Number = 2
	keyBag          protowire.Number = 3

	keyTransform protowire.Number = 1
	keyName      protowire.Number = 2
	keyWindow    protowire.Number = 3
	keyKey       protowire.Number = 4

	getToken protowire.Number = 1
	getData  protowire.Number = 2

	requestPayload protowire.Number = 1 // of a get its token, of an append its data
)

// StateKind is what a state request asks for. The numbers are those of the fields
// of StateRequest and of StateResponse.
type StateKind protowire.Number

// The kinds of state requests that there are.
const (
	StateGet    StateKind = 1000
	StateAppend StateKind = 1001
	StateClear  StateKind = 1002
)

// StateRequest is a message StateRequest. It lives in the bytes it was read from.
type StateRequest struct {
	ID, Instruction []byte
	// Kind is one of the constants, or 0 if the request is none of them.
	Kind StateKind
	// Payload is the continuation token of a StateGet, the data of a StateAppend.
	Payload []byte
	// Key may be nil. It belongs to the reader.
	Key *fnpb.StateKey
}

// StateReader reads state requests without allocating: it uses the objects of one for the next.
// The zero value is ready for use.
type StateReader struct {
	request StateRequest
	key     fnpb.StateKey
	bag     fnpb.StateKey_BagUserState_
	side    fnpb.StateKey_MultimapSideInput_
}

// Read reads an encoded StateRequest. What it returns is valid until the next call, and while the message is
// not changed. Bytes that are no such message give an error of class Invalid. Of fields that
// occur twice the last one counts, even where protobuf would merge them.
func (r *StateReader) Read(message []byte) (*StateRequest, error) {
	r.request = StateRequest{}
	err := readFields(message, func(f field) error {
		switch f.number {
		case stateID:
			return f.into(&r.request.ID)
		case stateInstruction:
			return f.into(&r.request.Instruction)
		case stateKey:
			return r.readKey(f)
		case protowire.Number(StateGet), protowire.Number(StateAppend), protowire.Number(StateClear):
			return r.readKind(f)
		}
		return nil
	})
	switch {
	case err != nil:
		return nil, fault.New(fault.Invalid, "malformed StateRequest: %w", err)
	case !utf8.Valid(r.request.ID):
		return nil, fault.New(fault.Invalid, "malformed StateRequest: its id is not UTF-8")
	}
	return &r.request, nil
}

func (r *StateReader) readKind(outer field) error {
	if outer.kind != protowire.BytesType {
		return outer.wrongType()
	}
	r.request.Kind, r.request.Payload = StateKind(outer.number), nil
	return readFields(outer.bytes, func(f field) error {
		if f.number == requestPayload && r.request.Kind != StateClear {
			return f.into(&r.request.Payload)
		}
		return nil
	})
}

func (r *StateReader) readKey(outer field) error {
	if outer.kind != protowire.BytesType {
		return outer.wrongType()
	}
	r.request.Key = &r.key
	r.key.Type = nil
	number, kind, n := protowire.ConsumeTag(outer.bytes)
	if n < 0 || kind != protowire.BytesType || number != keyBag && number != keyMultimapSide {
		return r.readOtherKey(outer.bytes)
	}
	key, m := protowire.ConsumeBytes(outer.bytes[n:])
	if m < 0 || n+m != len(outer.bytes) {
		return r.readOtherKey(outer.bytes)
	}
	if number == keyMultimapSide {
		k := r.side.MultimapSideInput
		if k == nil {
			k = new(fnpb.StateKey_MultimapSideInput)
			r.side.MultimapSideInput = k
		}
		r.key.Type = &r.side
		return readKeyFields(key, &k.TransformId, &k.SideInputId, &k.Window, &k.Key)
	}
	k := r.bag.BagUserState
	if k == nil {
		k = new(fnpb.StateKey_BagUserState)
		r.bag.BagUserState = k
	}
	r.key.Type = &r.bag
	return readKeyFields(key, &k.TransformId, &k.UserStateId, &k.Window, &k.Key)
}

// readOtherKey reads a key of a kind that is rare, or that is not put down as usual.
func (r *StateReader) readOtherKey(b []byte) error {
	key := new(fnpb.StateKey)
	r.request.Key = key
	return proto.Unmarshal(b, key)
}

// readKeyFields reads the fields of a BagUserState or MultimapSideInput. Names that are as they
// were are kept.
func readKeyFields(b []byte, transform, name *string, window, key *[]byte) error {
	var newTransform, newName []byte
	*window, *key = nil, nil
	err := readFields(b, func(f field) error {
		switch f.number {
		case keyTransform:
			return f.into(&newTransform)
		case keyName:
			return f.into(&newName)
		case keyWindow:
			return f.into(window)
		case keyKey:
			return f.into(key)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, s := range []struct {
		is  *string
		now []byte
	}{{transform, newTransform}, {name, newName}} {
		if *s.is != string(s.now) {
			if !utf8.Valid(s.now) {
				return fault.New(fault.Invalid, "a name is not UTF-8")
			}
			*s.is = string(s.now)
		}
	}
	return nil
}

func readFields(b []byte, each func(field) error) error {
	for len(b) > 0 {
		f, n, err := readField(b)
		if err != nil {
			return err
		}
		if err := each(f); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// AppendStateDone appends the StateResponse to a request of a kind that has been carried out
// and has nothing to return.
func AppendStateDone(b, id []byte, kind StateKind) []byte {
	b = appendStateID(b, id)
	b = protowire.AppendTag(b, protowire.Number(kind), protowire.BytesType)
	return protowire.AppendVarint(b, 0)
}

// AppendStatePage appends the StateResponse to a StateGet, up to the size bytes of data that are to follow.
// Token is that of the next page, empty if there is none.
func AppendStatePage(b, id []byte, size int, token []byte) []byte {
	length := 0
	if size > 0 {
		length = protowire.SizeTag(getData) + protowire.SizeBytes(size)
	}
	if len(token) > 0 {
		length += protowire.SizeTag(getToken) + protowire.SizeBytes(len(token))
	}
	b = appendStateID(b, id)
	b = protowire.AppendTag(b, protowire.Number(StateGet), protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(length))
	if len(token) > 0 {
		b = protowire.AppendTag(b, getToken, protowire.BytesType)
		b = protowire.AppendBytes(b, token)
	}
	if size > 0 {
		b = protowire.AppendTag(b, getData, protowire.BytesType)
		b = protowire.AppendVarint(b, uint64(size))
	}
	return b
}

// AppendStateError appends the StateResponse to a request that has failed.
func AppendStateError(b, id []byte, text string) []byte {
	b = appendStateID(b, id)
	b = protowire.AppendTag(b, stateError, protowire.BytesType)
	return protowire.AppendString(b, strings.ToValidUTF8(text, "?"))
}

func appendStateID(b, id []byte) []byte {
	b = protowire.AppendTag(b, stateID, protowire.BytesType)
	return protowire.AppendBytes(b, id)
}
