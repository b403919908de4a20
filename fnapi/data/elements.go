package data

import (
	"iter"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/lintelrun/lintel/internal/fault"
)

// Field numbers of org.apache.beam.model.fn_execution.v1.Elements.
const (
	elementsData   protowire.Number = 1
	elementsTimers protowire.Number = 2

	partInstruction protowire.Number = 1
	partTransform   protowire.Number = 2

	dataPayload protowire.Number = 3
	dataLast    protowire.Number = 4

	timersFamily  protowire.Number = 3
	timersPayload protowire.Number = 4
	timersLast    protowire.Number = 5
)

// Target is where a payload goes or comes from: a transform's data, or one of
// its timer families if Family is not empty.
type Target struct {
	Transform, Family string
}

// Part is one Elements.Data or Elements.Timers message. Its slices point into
// the message it was read from; their capacity ends with them.
type Part struct {
	Instruction, Transform []byte
	// Family is the timer family, empty for data.
	Family []byte
	// Payload is a concatenation of encoded elements or timers. It may begin and end anywhere.
	Payload []byte
	// Last says that nothing follows of this transform or family in this instruction.
	Last bool
}

// Parts yields the parts of an encoded Elements message in the order they stand
// in. Bytes that are no such message end the sequence with an error of class
// Invalid; what came before it has been yielded. Unknown fields are passed
// over, as protobuf asks.
func Parts(message []byte) iter.Seq2[Part, error] {
	return func(yield func(Part, error) bool) {
		for rest := message; len(rest) > 0; {
			field, n, err := readField(rest)
			if err != nil {
				yield(Part{}, err)
				return
			}
			rest = rest[n:]
			var part Part
			switch field.number {
			case elementsData:
				part, err = readData(field)
			case elementsTimers:
				part, err = readTimers(field)
			default:
				continue
			}
			if !yield(part, err) || err != nil {
				return
			}
		}
	}
}

// field is one field of a message, its value not yet interpreted.
type field struct {
	number protowire.Number
	kind   protowire.Type
	bytes  []byte // of a field of BytesType
	varint uint64 // of a field of VarintType
}

func readField(b []byte) (field, int, error) {
	number, kind, head := protowire.ConsumeTag(b)
	if head < 0 {
		return field{}, 0, malformed(head)
	}
	f := field{number: number, kind: kind}
	var n int
	switch kind {
	case protowire.BytesType:
		f.bytes, n = protowire.ConsumeBytes(b[head:])
	case protowire.VarintType:
		f.varint, n = protowire.ConsumeVarint(b[head:])
	default:
		n = protowire.ConsumeFieldValue(number, kind, b[head:])
	}
	if n < 0 {
		return field{}, 0, malformed(n)
	}
	return f, head + n, nil
}

func malformed(code int) error {
	return fault.New(fault.Invalid, "malformed message: %w", protowire.ParseError(code))
}

func readData(outer field) (Part, error) {
	var p Part
	err := readPart(outer, &p, func(f field) error {
		switch f.number {
		case dataPayload:
			return f.into(&p.Payload)
		case dataLast:
			return f.intoBool(&p.Last)
		}
		return nil
	})
	return p, err
}

func readTimers(outer field) (Part, error) {
	var p Part
	err := readPart(outer, &p, func(f field) error {
		switch f.number {
		case timersFamily:
			return f.into(&p.Family)
		case timersPayload:
			return f.into(&p.Payload)
		case timersLast:
			return f.intoBool(&p.Last)
		}
		return nil
	})
	if err == nil && len(p.Family) == 0 {
		err = fault.New(fault.Invalid, "timers of transform %q carry no timer family", p.Transform)
	}
	return p, err
}

// readPart reads the fields data and timers have in common and hands the others to rest.
func readPart(outer field, p *Part, rest func(field) error) error {
	if outer.kind != protowire.BytesType {
		return outer.wrongType()
	}
	for b := outer.bytes; len(b) > 0; {
		f, n, err := readField(b)
		if err != nil {
			return err
		}
		b = b[n:]
		switch f.number {
		case partInstruction:
			err = f.into(&p.Instruction)
		case partTransform:
			err = f.into(&p.Transform)
		default:
			err = rest(f)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (f field) into(to *[]byte) error {
	if f.kind != protowire.BytesType {
		return f.wrongType()
	}
	*to = f.bytes[:len(f.bytes):len(f.bytes)]
	return nil
}

func (f field) intoBool(to *bool) error {
	if f.kind != protowire.VarintType {
		return f.wrongType()
	}
	*to = protowire.DecodeBool(f.varint)
	return nil
}

func (f field) wrongType() error {
	return fault.New(fault.Invalid, "malformed message: field %d has wire type %d", f.number, f.kind)
}
