package coders

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"testing"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"gopkg.in/yaml.v3"

	"github.com/lintelrun/lintel/portable/urns"
)

// Beam's own test vectors, Apache licensed: model/fn-execution's standard_coders.yaml of 2.77.
//
//go:embed testdata/standard_coders.yaml
var standardCoders []byte

type yamlCoder struct {
	URN        string      `yaml:"urn"`
	Payload    string      `yaml:"payload"`
	Components []yamlCoder `yaml:"components"`
}

type section struct {
	Coder    yamlCoder            `yaml:"coder"`
	Nested   *bool                `yaml:"nested"`
	Examples map[string]yaml.Node `yaml:"examples"`
}

// latin1 turns text of the YAML into the bytes it stands for.
func latin1(t testing.TB, s string) []byte {
	var b []byte
	for _, r := range s {
		if r > 0xFF {
			t.Fatalf("%q is not bytes", s)
		}
		b = append(b, byte(r))
	}
	return b
}

// add puts c and its components in m and returns c's id.
func (c yamlCoder) add(t testing.TB, m map[string]*pipepb.Coder) string {
	p := &pipepb.Coder{Spec: &pipepb.FunctionSpec{Urn: c.URN, Payload: latin1(t, c.Payload)}}
	for _, part := range c.Components {
		p.ComponentCoderIds = append(p.ComponentCoderIds, part.add(t, m))
	}
	id := fmt.Sprintf("c%d", len(m))
	m[id] = p
	return id
}

// example is one encoded value of a section, in the nested encoding.
type example struct {
	name       string
	id         string
	components map[string]*pipepb.Coder
	coder      *Coder
	encoded    []byte
	value      yaml.Node
}

// examples are those of all sections. Encodings that are of the outer context
// only have no end of their own; they are what a length prefix holds, so they
// are given as values of a length_prefix coder.
func examples(t testing.TB) []example {
	var all []example
	d := yaml.NewDecoder(bytes.NewReader(standardCoders))
	for i := 0; ; i++ {
		var s section
		if err := d.Decode(&s); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		if s.Coder.URN == "" {
			t.Fatalf("section %d has no coder", i)
		}
		outer := s.Nested != nil && !*s.Nested
		spec := s.Coder
		if outer {
			spec = yamlCoder{URN: urns.CoderLengthPrefix, Components: []yamlCoder{spec}}
		}
		m := map[string]*pipepb.Coder{}
		id := spec.add(t, m)
		c, err := Compile(id, m)
		if err != nil {
			t.Fatalf("section %d: %v", i, err)
		}
		for encoded, value := range s.Examples {
			b := latin1(t, encoded)
			if outer {
				b = AppendBytes(nil, b)
			}
			all = append(all, example{fmt.Sprintf("%d %s %.20q", i, s.Coder.URN, encoded), id, m, c, b, value})
		}
	}
}

func TestStandardCoders(t *testing.T) {
	all := examples(t)
	if len(all) < 100 {
		t.Fatalf("only %d examples", len(all))
	}
	for _, x := range all {
		if n, err := x.coder.Skip(x.encoded); n != len(x.encoded) || err != nil {
			t.Errorf("%s: %d of %d bytes, %v", x.name, n, len(x.encoded), err)
		}
		for n := range x.encoded {
			if _, err := x.coder.Skip(x.encoded[:n]); !errors.Is(err, ErrShort) {
				t.Errorf("%s: the first %d bytes: %v", x.name, n, err)
			}
		}
		for _, tail := range [][]byte{{0}, {0xFF}, {0x80}, bytes.Repeat([]byte{0xFF}, 40)} {
			if n, err := x.coder.Skip(append(x.encoded[:len(x.encoded):len(x.encoded)], tail...)); n != len(x.encoded) || err != nil {
				t.Errorf("%s: %d of %d bytes with %x after, %v", x.name, n, len(x.encoded), tail, err)
			}
		}
	}
}

func TestStandardWindowedValues(t *testing.T) {
	type pane struct {
		First       bool   `yaml:"is_first"`
		Last        bool   `yaml:"is_last"`
		Timing      string `yaml:"timing"`
		Index       int64  `yaml:"index"`
		OnTimeIndex int64  `yaml:"on_time_index"`
	}
	type windowedValue struct {
		Value     int64       `yaml:"value"`
		Timestamp int64       `yaml:"timestamp"`
		Pane      pane        `yaml:"pane"`
		Windows   []yaml.Node `yaml:"windows"`
	}
	timings := [...]string{"EARLY", "ON_TIME", "LATE", "UNKNOWN"}
	seen := 0
	for _, x := range examples(t) {
		if x.coder.URN() != urns.CoderWindowedValue && x.coder.URN() != urns.CoderParamWindowedValue {
			continue
		}
		seen++
		var want windowedValue
		if err := x.value.Decode(&want); err != nil {
			t.Fatal(err)
		}
		w, err := CompileWindowed(x.id, x.components)
		if err != nil {
			t.Fatal(err)
		}
		block := bytes.Repeat(x.encoded, 2)
		for range 2 {
			var e Element
			if err := w.Next(block, &e); err != nil {
				t.Fatalf("%s: %v", x.name, err)
			}
			if e.Timestamp != want.Timestamp || e.NumWindows != len(want.Windows) || e.Size != len(x.encoded) || e.Key != nil {
				t.Errorf("%s: %+v", x.name, e)
			}
			if v, n, err := Varint(e.Value); v != want.Value || n != len(e.Value) || err != nil {
				t.Errorf("%s: value %d of %d bytes, %v", x.name, v, n, err)
			}
			p, n, err := DecodePane(e.Pane)
			got := pane{p.First, p.Last, timings[p.Timing], p.Index, p.OnTimeIndex}
			if got != want.Pane || n != len(e.Pane) || err != nil {
				t.Errorf("%s: pane %+v of %d bytes, %v", x.name, got, n, err)
			}
			rest := e.Windows
			for _, node := range want.Windows {
				rest = checkWindow(t, x.name, w.Window(), rest, node)
			}
			if len(rest) != 0 {
				t.Errorf("%s: %x after the windows", x.name, rest)
			}
			if header := AppendHeader(nil, e.Timestamp, e.NumWindows, e.Windows, e.Pane); !w.Constant() && !bytes.Equal(append(header, e.Value...), x.encoded) {
				t.Errorf("%s: header written as %x", x.name, header)
			}
			block = block[e.Size:]
		}
		if n, at, err := w.Count(bytes.Repeat(x.encoded, 7)); n != 7 || at != want.Timestamp || err != nil {
			t.Errorf("%s: count %d, minimum %d, %v", x.name, n, at, err)
		}
	}
	if seen < 5 {
		t.Errorf("only %d windowed values", seen)
	}
}

// checkWindow compares the window at the start of b with one of the YAML's and returns what follows it.
func checkWindow(t *testing.T, name string, window *Coder, b []byte, node yaml.Node) []byte {
	n, err := window.Skip(b)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	if window.URN() == urns.CoderGlobalWindow {
		return b[n:]
	}
	var want struct{ End, Span int64 }
	if err := node.Decode(&want); err != nil {
		t.Fatal(err)
	}
	end, err := Timestamp(b)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	span, _, err := Varint(b[TimestampSize:])
	if end != want.End || span != want.Span || err != nil {
		t.Errorf("%s: window of %d before %d, %v", name, span, end, err)
	}
	return b[n:]
}

func TestStandardKVs(t *testing.T) {
	seen := 0
	for _, x := range examples(t) {
		if x.coder.URN() != urns.CoderKV {
			continue
		}
		seen++
		var want struct {
			Key   string `yaml:"key"`
			Value any    `yaml:"value"`
		}
		if err := x.value.Decode(&want); err != nil {
			t.Fatal(err)
		}
		w, err := NewWindowed(x.coder, mustCompile(t, yamlCoder{URN: urns.CoderGlobalWindow}))
		if err != nil {
			t.Fatal(err)
		}
		var e Element
		if err := w.Next(append(AppendHeader(nil, 5, 1, nil, []byte{PaneNoFiring}), x.encoded...), &e); err != nil {
			t.Fatalf("%s: %v", x.name, err)
		}
		if !bytes.Equal(e.Key, AppendBytes(nil, []byte(want.Key))) {
			t.Errorf("%s: key %x", x.name, e.Key)
		}
		var value []byte
		switch v := want.Value.(type) {
		case int:
			value = AppendVarint(nil, int64(v))
		case string:
			value = AppendBytes(nil, []byte(v))
		case bool:
			value = []byte{0}
			if v {
				value[0] = 1
			}
		}
		if !bytes.Equal(e.Value, value) {
			t.Errorf("%s: value %x, not %x", x.name, e.Value, value)
		}
	}
	if seen < 6 {
		t.Errorf("only %d KVs", seen)
	}
}

func mustCompile(t testing.TB, c yamlCoder) *Coder {
	m := map[string]*pipepb.Coder{}
	made, err := Compile(c.add(t, m), m)
	if err != nil {
		t.Fatal(err)
	}
	return made
}
