package protocol

import (
	"bytes"
	"encoding/binary"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lintelrun/lintel/internal/fault"
)

var update = flag.Bool("update", false, "write what scripts put out as what to expect, and a golden manifest that is not there yet")

// example has something of everything.
func example() *Manifest {
	id := func(epoch, generation, task, n uint64) FileID { return FileID{epoch, generation, task, n} }
	m := &Manifest{
		Epoch: 42, Generation: 3, Savepoint: true, Taken: 1_763_700_000_123, KeyGroups: 1024,
		Job: Job{ID: "job-1", Name: "Über uns", Submitted: 1_763_600_000_000, Pipeline: Span{0, 0, 1000}, Options: Span{0, 1000, 24}},
		Pipeline: Pipeline{Transforms: []Transform{
			{Name: "count/group", URN: "beam:transform:group_by_key:v1", Coder: "kv<string,varint>", Windowing: "fixed 60s", Keeps: true},
			{
				Name: "sum", URN: "beam:transform:pardo:v1", Coder: "kv<string,varint>", Windowing: "global", Keeps: true,
				States: []StateSpec{{"buffer", "bag", "varint"}, {"total", "value", "varint"}},
				Timers: []TimerFamily{{"flush", "event time"}, {"tick", "processing time"}},
			},
		}},
		Files: []File{
			{id(40, 3, 0, 0), 1024, 0x01020304},
			{id(41, 2, 7, 1), 5 << 30, 0xffffffff},
			{id(42, 3, 7, 0), 300, 7},
		},
		Tasks: []Task{
			{Stage: "read", Index: 0, Of: 2, Ended: true, Input: 1 << 50, Output: 1 << 50},
			{Stage: "read", Index: 1, Of: 2, Input: -5, Output: -9, Hold: -9, Parts: []Part{
				{Kind: Inbox, Elements: 3, Span: Span{2, 0, 100}},
				{Kind: Residuals, Elements: 1, Span: Span{2, 100, 50}},
			}},
			{
				Stage: "sum", Index: 0, Of: 1, EndGroup: 1024, Input: 10, Output: 5, Hold: 7,
				Channels: []Channel{{"read.out", 0, 1 << 50}, {"read.out", 1, -9}},
				Parts: []Part{
					{Kind: State, EndGroup: 512, Span: Span{2, 150, 100}},
					{Kind: Tables, Name: "000007.sst", EndGroup: 1024, Span: Span{1, 0, 5 << 30}},
					{Kind: Outbox, Name: "sum.out", Index: 3, Elements: 2, Span: Span{2, 250, 50}},
				},
			},
		},
	}
	m.Metrics = []string{"a counter", ""}
	for i := range m.Plan {
		m.Plan[i] = byte(i)
	}
	return m
}

func TestManifestComesBack(t *testing.T) {
	want := example()
	if err := want.Validate(); err != nil {
		t.Fatal(err)
	}
	data := want.Encode()
	got, err := DecodeManifest(data)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if total, fresh := got.Bytes(); total != 1024+5<<30+300 || fresh != 300 {
		t.Errorf("%d bytes, %d of them new", total, fresh)
	}
}

// Every build reads the manifests of every version that there was.
func TestOldManifests(t *testing.T) {
	golden := filepath.Join("testdata", "manifest-v1")
	if _, err := os.Stat(golden); *update && os.IsNotExist(err) {
		if err := os.WriteFile(golden, example().Encode(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	got, err := DecodeManifest(data)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(example(), got); diff != "" {
		t.Errorf("version 1 is not read as it was meant: %s", diff)
	}
}

func TestDamagedManifestsAreFound(t *testing.T) {
	data := example().Encode()
	for i := range data {
		for bit := range 8 {
			bad := bytes.Clone(data)
			bad[i] ^= 1 << bit
			if _, err := DecodeManifest(bad); fault.ClassOf(err) != fault.Corruption {
				t.Fatalf("bit %d of byte %d flipped: %v", bit, i, err)
			}
		}
		if _, err := DecodeManifest(data[:i]); fault.ClassOf(err) != fault.Corruption {
			t.Fatalf("cut at %d: %v", i, err)
		}
	}
	if _, err := DecodeManifest(append(bytes.Clone(data), 0)); err == nil {
		t.Error("a byte too many was not found")
	}
	later := bytes.Clone(data)
	later[len(manifestMagic)] = 2
	if _, err := DecodeManifest(later); err == nil || !strings.Contains(err.Error(), "version 2") {
		t.Errorf("of a version to come: %v", err)
	}
}

func TestContradictions(t *testing.T) {
	for name, change := range map[string]func(*Manifest){
		"epochs begin with 1":      func(m *Manifest) { m.Epoch = 0 },
		"0 key groups":             func(m *Manifest) { m.KeyGroups = 0 },
		"is there twice":           func(m *Manifest) { m.Files[1] = m.Files[0] },
		"not of a time before":     func(m *Manifest) { m.Files[2].Epoch = 43 },
		"file 3 of 3":              func(m *Manifest) { m.Tasks[1].Parts[0].Span.File = 3 },
		"which has 300":            func(m *Manifest) { m.Tasks[1].Parts[0].Span.Length = 301 },
		"from 9223372036854775807": func(m *Manifest) { m.Tasks[1].Parts[0].Span.Offset = 1<<63 - 1 },
		"not together":             func(m *Manifest) { m.Tasks[2].Stage = "read" },
		"some are missing":         func(m *Manifest) { m.Tasks[2].Of = 2 },
		"not to be here":           func(m *Manifest) { m.Tasks[1].Index = 0 },
		"up to 1000 of 1024":       func(m *Manifest) { m.Tasks[2].EndGroup, m.Tasks[2].Parts[1].EndGroup = 1000, 1000 },
		"has key groups [0, 1025)": func(m *Manifest) { m.Tasks[2].Parts[1].EndGroup = 1025 },
		"something left":           func(m *Manifest) { m.Tasks[1].Ended = true },
		"after one of kind":        func(m *Manifest) { p := m.Tasks[1].Parts; p[0], p[1] = p[1], p[0] },
		"kind 0":                   func(m *Manifest) { m.Tasks[1].Parts[0].Kind = 0 },
		"by the name \"../x\"":     func(m *Manifest) { m.Tasks[2].Parts[1].Name = "../x" },
		"order of names":           func(m *Manifest) { m.Pipeline.Transforms[0].Name = "z" },
	} {
		m := example()
		change(m)
		if err := m.Validate(); fault.ClassOf(err) != fault.Corruption {
			t.Errorf("%s: %v", name, err)
		} else if name != "epochs begin with 1" && !strings.Contains(err.Error(), name) {
			t.Errorf("%q is not in: %v", name, err)
		}
	}
}

func FuzzDecodeManifest(f *testing.F) {
	f.Add(example().Encode())
	f.Add((&Manifest{Epoch: 1, Generation: 1, KeyGroups: 1}).Encode())
	f.Fuzz(func(t *testing.T, data []byte) {
		if n := len(data); n > 4 { // so that it comes past the checksum
			binary.LittleEndian.PutUint32(data[n-4:], Checksum(data[:n-4]))
		}
		m, err := DecodeManifest(data)
		if err != nil {
			if fault.ClassOf(err) != fault.Corruption {
				t.Fatalf("class %v of %v", fault.ClassOf(err), err)
			}
			return
		}
		if again := m.Encode(); !bytes.Equal(again, data) {
			t.Fatalf("read and written again it is\n%x, not\n%x", again, data)
		}
	})
}

func FuzzDecodeRecords(f *testing.F) {
	f.Add(Claim{3, 1 << 60}.Encode())
	f.Add(Base{3, 7, "file:///x"}.Encode())
	f.Fuzz(func(t *testing.T, data []byte) {
		if c, err := DecodeClaim(data); err == nil && !bytes.Equal(c.Encode(), data) {
			t.Fatalf("claim %+v is written as %x", c, c.Encode())
		}
		if b, err := DecodeBase(data); err == nil && !bytes.Equal(b.Encode(), data) {
			t.Fatalf("base %+v is written as %x", b, b.Encode())
		}
	})
}

func TestNames(t *testing.T) {
	for _, name := range []string{
		GenerationName(3), BaseName(3), ClaimName(1 << 60), ManifestName(7), FileID{7, 3, 12, 4}.Name(), FileID{1 << 50, 1, 0, 0}.Name(),
	} {
		if o := splitName(name); o.kind == foreign {
			t.Errorf("%s is not known", name)
		}
	}
	for _, name := range []string{
		"", "x", "epoch-7", "epoch-000000000007.base", "generation-00000003.bases", "manifest-", "manifest-00000000000007", "manifest-+00000000007",
		"files/", "files/1-2-3-4", "files/000000000007-03-1-1", "files/000000000007-3-1", "files/../manifest-000000000007", "files/000000000007-3-1-1/x",
	} {
		if o := splitName(name); o.kind != foreign {
			t.Errorf("%s is taken for %+v", name, o)
		}
	}
}
