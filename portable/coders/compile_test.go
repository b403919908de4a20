package coders

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable/urns"
)

func coder(urn string, components ...string) *pipepb.Coder {
	return &pipepb.Coder{Spec: &pipepb.FunctionSpec{Urn: urn}, ComponentCoderIds: components}
}

func rowOf(types ...*pipepb.FieldType) *pipepb.Coder {
	s := &pipepb.Schema{}
	for i, t := range types {
		s.Fields = append(s.Fields, &pipepb.Field{Name: fmt.Sprintf("f%d", i), Type: t})
	}
	payload, err := proto.Marshal(s)
	if err != nil {
		panic(err)
	}
	return &pipepb.Coder{Spec: &pipepb.FunctionSpec{Urn: urns.CoderRow, Payload: payload}}
}

func logical(urn string) *pipepb.FieldType {
	return &pipepb.FieldType{TypeInfo: &pipepb.FieldType_LogicalType{LogicalType: &pipepb.LogicalType{Urn: urn}}}
}

func TestCompileRefuses(t *testing.T) {
	wide := map[string]*pipepb.Coder{"c0": coder(urns.CoderDouble)}
	for i := range 60 {
		wide[fmt.Sprintf("c%d", i+1)] = coder(urns.CoderKV, fmt.Sprintf("c%d", i), fmt.Sprintf("c%d", i))
	}
	deep := map[string]*pipepb.Coder{"c0": coder(urns.CoderBytes)}
	for i := range 200 {
		deep[fmt.Sprintf("c%d", i+1)] = coder(urns.CoderNullable, fmt.Sprintf("c%d", i))
	}
	tests := map[string]struct {
		id         string
		components map[string]*pipepb.Coder
		class      fault.Class
		says       []string
	}{
		"unknown URN": {"k", map[string]*pipepb.Coder{"k": coder(urns.CoderKV, "x", "x"), "x": coder("beam:coder:mine:v7")},
			fault.Unsupported, []string{`"x"`, "beam:coder:mine:v7"}},
		"no spec":           {"x", map[string]*pipepb.Coder{"x": {}}, fault.Unsupported, []string{`"x"`}},
		"missing":           {"x", nil, fault.Invalid, []string{`"x"`}},
		"missing component": {"k", map[string]*pipepb.Coder{"k": coder(urns.CoderIterable, "x")}, fault.Invalid, []string{`"x"`}},
		"missing inside a length prefix": {"k", map[string]*pipepb.Coder{"k": coder(urns.CoderLengthPrefix, "x")},
			fault.Invalid, []string{`"x"`, `"k"`}},
		"arity": {"k", map[string]*pipepb.Coder{"k": coder(urns.CoderKV, "x"), "x": coder(urns.CoderBytes)},
			fault.Invalid, []string{`"k"`, urns.CoderKV, "2"}},
		"cycle": {"k", map[string]*pipepb.Coder{"k": coder(urns.CoderIterable, "x"), "x": coder(urns.CoderNullable, "k")},
			fault.Invalid, []string{`"k"`, "itself"}},
		"too deep": {"c200", deep, fault.Invalid, []string{"deep"}},
		"too wide": {"c60", wide, fault.Invalid, []string{"2 GiB"}},
		"payload that is no schema": {"r", map[string]*pipepb.Coder{"r": {Spec: &pipepb.FunctionSpec{Urn: urns.CoderRow, Payload: []byte{0xFF}}}},
			fault.Invalid, []string{`"r"`, "schema"}},
		"type without layout": {"r", map[string]*pipepb.Coder{"r": rowOf(logical(urns.LogicalPythonAny))},
			fault.Unsupported, []string{`"r"`, `"f0"`, urns.LogicalPythonAny}},
		"type without a type": {"r", map[string]*pipepb.Coder{"r": rowOf(&pipepb.FieldType{})}, fault.Unsupported, []string{`"r"`, `"f0"`}},
		"constant that is cut": {"w", map[string]*pipepb.Coder{
			"w": {Spec: &pipepb.FunctionSpec{Urn: urns.CoderParamWindowedValue, Payload: make([]byte, 12)}, ComponentCoderIds: []string{"v", "g"}},
			"v": coder(urns.CoderVarint), "g": coder(urns.CoderGlobalWindow)},
			fault.Invalid, []string{`"w"`, "payload"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := Compile(test.id, test.components)
			if err == nil || fault.ClassOf(err) != test.class {
				t.Fatalf("%v (%v), want %v", err, fault.ClassOf(err), test.class)
			}
			for _, s := range test.says {
				if !strings.Contains(err.Error(), s) {
					t.Errorf("%q doesn't name %s", err, s)
				}
			}
		})
	}
}

func TestLengthPrefixIsOpaque(t *testing.T) {
	c, err := Compile("l", map[string]*pipepb.Coder{"l": coder(urns.CoderLengthPrefix, "x"), "x": coder("beam:coder:mine:v7")})
	if err != nil {
		t.Fatal(err)
	}
	if n, err := c.Skip([]byte{2, 0xFF, 0xFF, 7}); n != 3 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	if len(c.Components()) != 0 {
		t.Errorf("components %v", c.Components())
	}
}

func TestKnown(t *testing.T) {
	if Known("beam:coder:mine:v7") || Known(urns.CoderSchema) || Known("") {
		t.Error("a layout is known that isn't")
	}
	for _, x := range examples(t) {
		if !Known(x.coder.URN()) {
			t.Errorf("%s is not known", x.coder.URN())
		}
	}
	for urn, n := range arity { // each has a layout
		if urn == urns.CoderParamWindowedValue {
			continue // which needs a payload; the standard examples have it
		}
		mustCompile(t, of(urn, arguments(n)...))
	}
}

func arguments(n int) []yamlCoder { return []yamlCoder{yamlBytes, yamlGlobal, yamlVarint}[:n] }

func TestCompileWindowedRefusesOthers(t *testing.T) {
	if _, err := CompileWindowed("b", map[string]*pipepb.Coder{"b": coder(urns.CoderBytes)}); fault.ClassOf(err) != fault.Invalid {
		t.Error(err)
	}
	if _, err := NewWindowed(nil, nil); fault.ClassOf(err) != fault.Invalid {
		t.Error(err)
	}
}

func TestSkipOfHostileBytes(t *testing.T) {
	atomic := func(a pipepb.AtomicType) *pipepb.FieldType {
		return &pipepb.FieldType{TypeInfo: &pipepb.FieldType_AtomicType{AtomicType: a}}
	}
	row, err := Compile("r", map[string]*pipepb.Coder{"r": rowOf(atomic(pipepb.AtomicType_INT32), atomic(pipepb.AtomicType_STRING))})
	if err != nil {
		t.Fatal(err)
	}
	nine, err := Compile("r", map[string]*pipepb.Coder{"r": rowOf(slices.Repeat([]*pipepb.FieldType{atomic(pipepb.AtomicType_BYTE)}, 9)...)})
	if err != nil {
		t.Fatal(err)
	}
	negative := AppendVarint(nil, -1)
	chunked := []byte{0xFF, 0xFF, 0xFF, 0xFF}
	nothings := chunked[:4:4] // blocks of 2^31-1 values that take no bytes
	for range 100 {
		nothings = AppendVarint(nothings, math.MaxInt32)
	}
	tests := map[string]struct {
		coder   *Coder
		b       []byte
		size    int
		short   bool
		corrupt bool
	}{
		"bool 2":                   {coder: mustCompile(t, of(urns.CoderBool)), b: []byte{2}, corrupt: true},
		"nullable 2":               {coder: mustCompile(t, of(urns.CoderNullable, yamlBytes)), b: []byte{2, 0}, corrupt: true},
		"varint of 11 bytes":       {coder: mustCompile(t, yamlVarint), b: append(negative[:9:9], 0x80, 0x80), corrupt: true},
		"varint of 65 bits":        {coder: mustCompile(t, yamlVarint), b: append(negative[:9:9], 2), corrupt: true},
		"negative length":          {coder: mustCompile(t, yamlBytes), b: negative, corrupt: true},
		"length of 2 GiB":          {coder: mustCompile(t, yamlBytes), b: AppendVarint(nil, math.MaxInt32+1), corrupt: true},
		"length beyond the end":    {coder: mustCompile(t, yamlBytes), b: AppendVarint(nil, math.MaxInt32), short: true},
		"count of -2":              {coder: mustCompile(t, of(urns.CoderIterable, yamlBytes)), b: []byte{0xFF, 0xFF, 0xFF, 0xFE}, corrupt: true},
		"count beyond the end":     {coder: mustCompile(t, of(urns.CoderIterable, yamlBytes)), b: []byte{0x7F, 0xFF, 0xFF, 0xFF, 0}, short: true},
		"many of nothing":          {coder: mustCompile(t, of(urns.CoderIterable, of(urns.CoderKV, yamlGlobal, yamlGlobal))), b: []byte{0x7F, 0xFF, 0xFF, 0xFF}, size: 4},
		"negative block":           {coder: mustCompile(t, of(urns.CoderIterable, yamlBytes)), b: append(chunked[:4:4], negative...), corrupt: true},
		"block beyond the end":     {coder: mustCompile(t, of(urns.CoderIterable, yamlBytes)), b: append(chunked[:4:4], 9, 0), short: true},
		"big blocks of nothing":    {coder: mustCompile(t, of(urns.CoderIterable, yamlGlobal)), b: append(nothings, 0), size: 505},
		"several blocks":           {coder: mustCompile(t, of(urns.CoderIterable, yamlVarint)), b: append(chunked[:4:4], 2, 7, 7, 1, 7, 0), size: 10},
		"token of a state":         {coder: mustCompile(t, of(urns.CoderStateBackedIterable, yamlVarint)), b: append(append(append(chunked[:4:4], 1, 7), negative...), 2, 'a', 'b'), size: 19},
		"timer that is not set":    {coder: mustCompile(t, of(urns.CoderTimer, yamlBytes, yamlGlobal)), b: []byte{0, 0, 0, 0, 0, 1, 2}, corrupt: true},
		"windows of unknown count": {coder: mustCompile(t, of(urns.CoderTimer, yamlBytes, yamlGlobal)), b: append([]byte{0, 0}, chunked...), corrupt: true},
		"row of an older schema":   {coder: row, b: []byte{1, 0, 5}, size: 3},
		"row of a newer schema":    {coder: row, b: []byte{3, 0, 5, 0, 0}, corrupt: true},
		"row of long null bitmap":  {coder: row, b: []byte{2, 3, 1, 0xFF, 0xFF, 1, 'a'}, size: 7},
		"row of short null bitmap": {coder: nine, b: []byte{9, 1, 0xFE, 5, 6}, size: 5},
		"row of all nulls":         {coder: row, b: []byte{2, 1, 3}, size: 3},
	}
	for name, test := range tests {
		n, err := test.coder.Skip(test.b)
		if n != test.size || errors.Is(err, ErrShort) != test.short || (fault.ClassOf(err) == fault.Corruption) != test.corrupt {
			t.Errorf("%s: %d, %v", name, n, err)
		}
	}
}

// TestRowsInAnotherOrder has fields encoded in the opposite order of the
// schema, which still numbers their null bits.
func TestRowsInAnotherOrder(t *testing.T) {
	row := func(positions ...int32) (*Coder, error) {
		s := &pipepb.Schema{EncodingPositionsSet: true}
		for i, p := range positions {
			a := []pipepb.AtomicType{pipepb.AtomicType_STRING, pipepb.AtomicType_DOUBLE}[i]
			s.Fields = append(s.Fields, &pipepb.Field{Name: a.String(), EncodingPosition: p,
				Type: &pipepb.FieldType{Nullable: true, TypeInfo: &pipepb.FieldType_AtomicType{AtomicType: a}}})
		}
		payload, err := proto.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		return Compile("r", map[string]*pipepb.Coder{"r": {Spec: &pipepb.FunctionSpec{Urn: urns.CoderRow, Payload: payload}}})
	}
	c, err := row(1, 0)
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{
		"both":            {2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 'a', 'b'},
		"string only":     {2, 1, 2, 2, 'a', 'b'},
		"double only":     {2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0},
		"an older schema": {1, 0, 0, 0, 0, 0, 0, 0, 0, 0},
	} {
		if n, err := c.Skip(append(b, 1)); n != len(b) || err != nil {
			t.Errorf("%s: %d of %d bytes, %v", name, n, len(b), err)
		}
	}
	if _, err := row(3, 3); fault.ClassOf(err) != fault.Invalid || !strings.Contains(err.Error(), "position") {
		t.Errorf("two fields in one position: %v", err)
	}
}
