package coders

import (
	"fmt"
	"slices"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable/urns"
)

// compileSchema compiles the payload of a row coder, nested depth deep at most.
func compileSchema(payload []byte, depth int) (*Coder, error) {
	var schema pipepb.Schema
	if err := proto.Unmarshal(payload, &schema); err != nil {
		return nil, fault.New(fault.Invalid, "its payload is no schema: %w", err)
	}
	return rowLayout(&schema, depth)
}

func rowLayout(schema *pipepb.Schema, depth int) (*Coder, error) {
	row := &Coder{op: opRow, min: 2}
	order, err := encodingOrder(schema)
	if err != nil {
		return nil, err
	}
	for _, i := range order {
		f := schema.GetFields()[i]
		// A row marks its own null fields, so they carry no flag.
		c, err := typeLayout(f.GetType(), depth-1)
		if err != nil {
			return nil, fmt.Errorf("field %q: %w", f.GetName(), err)
		}
		row.row = append(row.row, field{coder: c, null: i})
	}
	return row, nil
}

// encodingOrder returns the positions of the schema's fields in the order in which they are encoded.
func encodingOrder(schema *pipepb.Schema) ([]int, error) {
	fields := schema.GetFields()
	order := make([]int, len(fields))
	for i := range order {
		order[i] = i
	}
	if !schema.GetEncodingPositionsSet() {
		return order, nil
	}
	position := func(i int) int { return int(fields[i].GetEncodingPosition()) }
	slices.SortStableFunc(order, func(a, b int) int { return position(a) - position(b) })
	for i := 1; i < len(order); i++ {
		if position(order[i-1]) == position(order[i]) {
			return nil, fault.New(fault.Invalid, "fields %q and %q have the same encoding position",
				fields[order[i-1]].GetName(), fields[order[i]].GetName())
		}
	}
	return order, nil
}

// elementLayout is the layout of a type inside a collection, where nulls are flagged.
func elementLayout(t *pipepb.FieldType, depth int) (*Coder, error) {
	c, err := typeLayout(t, depth)
	if err == nil && t.GetNullable() {
		c = nullable(c)
	}
	return c, err
}

// typeLayout is the layout of a type's values that are not null.
func typeLayout(t *pipepb.FieldType, depth int) (*Coder, error) {
	if depth == 0 {
		return nil, fault.New(fault.Invalid, "types are nested more than %d deep", maxDepth)
	}
	switch info := t.GetTypeInfo().(type) {
	case *pipepb.FieldType_AtomicType:
		return atomicLayout(info.AtomicType)
	case *pipepb.FieldType_ArrayType:
		return collectionLayout(opIterable, depth, info.ArrayType.GetElementType())
	case *pipepb.FieldType_IterableType:
		return collectionLayout(opIterable, depth, info.IterableType.GetElementType())
	case *pipepb.FieldType_MapType:
		return collectionLayout(opCounted, depth, info.MapType.GetKeyType(), info.MapType.GetValueType())
	case *pipepb.FieldType_RowType:
		return rowLayout(info.RowType.GetSchema(), depth)
	case *pipepb.FieldType_LogicalType:
		switch info.LogicalType.GetUrn() {
		case urns.LogicalMillisInstant:
			return timestampLayout, nil
		case urns.LogicalDecimal: // scale and unscaled value
			return sequence(varintLayout, bytesLayout), nil
		case urns.LogicalPythonAny:
			return nil, fault.New(fault.Unsupported, "the layout of logical type %q is not known; the row must be length prefixed", urns.LogicalPythonAny)
		}
		return elementLayout(info.LogicalType.GetRepresentation(), depth-1)
	}
	return nil, fault.New(fault.Unsupported, "a field type that is not known")
}

// collectionLayout is the layout of a collection of elements that have the given types one after the other.
func collectionLayout(o op, depth int, types ...*pipepb.FieldType) (*Coder, error) {
	var parts []*Coder
	for _, t := range types {
		c, err := elementLayout(t, depth-1)
		if err != nil {
			return nil, err
		}
		parts = append(parts, c)
	}
	return collection(o, sequence(parts...)), nil
}

func atomicLayout(t pipepb.AtomicType) (*Coder, error) {
	switch t {
	case pipepb.AtomicType_BYTE:
		return fixed(1), nil
	case pipepb.AtomicType_INT16:
		return fixed(2), nil
	case pipepb.AtomicType_INT32, pipepb.AtomicType_INT64:
		return varintLayout, nil
	case pipepb.AtomicType_FLOAT:
		return fixed(4), nil
	case pipepb.AtomicType_DOUBLE:
		return fixed(8), nil
	case pipepb.AtomicType_STRING, pipepb.AtomicType_BYTES:
		return bytesLayout, nil
	case pipepb.AtomicType_BOOLEAN:
		return boolLayout, nil
	}
	return nil, fault.New(fault.Unsupported, "atomic type %v is not known", t)
}
