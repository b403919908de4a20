package protocol

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/lintelrun/lintel/internal/fault"
)

// folder is the objects of a job.
type folder map[string][]byte

func (f folder) create(name string, data []byte) bool {
	if _, ok := f[name]; ok {
		return false
	}
	f[name] = data
	return true
}

func (f folder) list() []Object {
	var all []Object
	for _, name := range slices.Sorted(maps.Keys(f)) {
		all = append(all, Object{name, int64(len(f[name]))})
	}
	return all
}

func (f folder) get(name string) Read {
	data, ok := f[name]
	return Read{Data: data, Absent: !ok}
}

// recover does what Recover asks for, with a listing that may be old.
func (f folder) recover(facts Facts) Decision {
	facts.Read, facts.Found = map[string]Read{}, map[string]int64{}
	for range 1000 {
		d := Recover(facts)
		if d.Outcome != ReadMore {
			return d
		}
		for _, name := range d.Read {
			facts.Read[name] = f.get(name)
		}
		for _, name := range d.Find {
			facts.Found[name] = Absent
			if data, ok := f[name]; ok {
				facts.Found[name] = int64(len(data))
			}
		}
	}
	panic("it asks for more for ever")
}

func (f folder) survey(generation uint64) ([]Checkpoint, []uint64) {
	facts := Facts{Generation: generation, Listed: f.list(), Read: map[string]Read{}}
	for {
		complete, orphans, read := Survey(facts)
		if len(read) == 0 {
			return complete, orphans
		}
		for _, name := range read {
			facts.Read[name] = f.get(name)
		}
	}
}

// complete puts a whole checkpoint with one file of its own into the folder.
func (f folder) complete(epoch, generation uint64, others ...File) []File {
	own := File{FileID{epoch, generation, 0, 0}, 8, 0}
	f[own.Name()] = make([]byte, own.Size)
	m := Manifest{Epoch: epoch, Generation: generation, KeyGroups: 1, Files: append([]File{own}, others...)}
	f[ClaimName(epoch)] = Claim{generation, 0}.Encode()
	f[ManifestName(epoch)] = m.Encode()
	return m.Files
}

func (f folder) begin(generation, epoch uint64) {
	f[GenerationName(generation)] = Claim{generation, 0}.Encode()
	f[BaseName(generation)] = Base{Generation: generation, Epoch: epoch}.Encode()
}

func TestRecovery(t *testing.T) {
	for _, c := range []struct {
		name string
		make func(f folder, facts *Facts)
		want string
	}{
		{"nothing was ever there", func(folder, *Facts) {}, "fresh"},
		{"a run that ended before its first checkpoint", func(f folder, _ *Facts) { f.begin(1, 0) }, "fresh"},
		{"the newest checkpoint is taken", func(f folder, _ *Facts) {
			f.begin(1, 0)
			f.complete(1, 1)
			f.complete(2, 1)
		}, "restore 2, last 2"},
		{"an epoch without a manifest is no checkpoint", func(f folder, _ *Facts) {
			f.begin(1, 0)
			f.complete(1, 1)
			f[ClaimName(2)] = Claim{1, 0}.Encode()
			f[FileID{2, 1, 0, 0}.Name()] = nil
		}, "restore 1, last 2"},
		{"a damaged manifest is named and passed over", func(f folder, _ *Facts) {
			f.begin(1, 0)
			f.complete(1, 1)
			f.complete(2, 1)
			f[ManifestName(2)][20] ^= 1
		}, "restore 1, last 2, but not 2 (checkpointing: record LNTLMAN has checksum"},
		{"a manifest by the name of another", func(f folder, _ *Facts) {
			f.begin(1, 0)
			f.complete(1, 1)
			f.complete(2, 1)
			f[ManifestName(2)] = f[ManifestName(1)]
		}, "restore 1, last 2, but not 2 (manifest-000000000002 is of epoch 1)"},
		{"a file is missing", func(f folder, _ *Facts) {
			f.begin(1, 0)
			f.complete(1, 1)
			delete(f, f.complete(2, 1)[0].Name())
		}, "restore 1, last 2, but not 2 (file files/000000000002-1-0-0 is missing)"},
		{"a file is cut", func(f folder, _ *Facts) {
			f.begin(1, 0)
			f.complete(1, 1)
			f[f.complete(2, 1)[0].Name()] = nil
		}, "restore 1, last 2, but not 2 (file files/000000000002-1-0-0 has 0 bytes, not 8)"},
		{"content turned out to be damaged", func(f folder, facts *Facts) {
			f.begin(1, 0)
			f.complete(1, 1)
			f.complete(2, 1)
			facts.Bad = map[uint64]string{2: "checksum"}
		}, "restore 1, last 2, but not 2 (checksum)"},
		{"older ones are not to be taken", func(f folder, facts *Facts) {
			f.begin(1, 0)
			f.complete(1, 1)
			f.complete(2, 1)
			facts.Bad, facts.Strict = map[uint64]string{2: "checksum"}, true
		}, "refuse: the newest checkpoint can't be used, and older ones are not to be: checkpoint 2: checksum"},
		{"none is whole", func(f folder, _ *Facts) {
			f.begin(1, 0)
			f.complete(1, 1)
			f[ManifestName(1)] = nil
		}, "refuse: no checkpoint can be used: checkpoint 1:"},
		{"the newest is known and gone", func(f folder, facts *Facts) {
			f.begin(1, 0)
			f.complete(1, 1)
			facts.AtLeast = 2
		}, "restore 1, last 2, but not 2 (its manifest is missing)"},
		{"one is known and gone", func(_ folder, facts *Facts) { facts.AtLeast = 7 }, "refuse: no checkpoint can be used: checkpoint 7: its manifest is missing"},
		{"the listing is older than the last checkpoints", func(f folder, facts *Facts) {
			f.begin(1, 0)
			f.complete(1, 1)
			facts.Listed = f.list()
			f.complete(2, 1)
			f[ClaimName(3)] = Claim{1, 0}.Encode()
			f.complete(4, 1)
		}, "restore 4, last 4"},
		{"the listing is empty, the job knows of a checkpoint", func(f folder, facts *Facts) {
			f.begin(1, 0)
			f.complete(8, 1)
			f.complete(9, 1)
			facts.Listed, facts.AtLeast = []Object{}, 8
		}, "restore 9, last 9"},
		{"what a replaced run wrote later does not count", func(f folder, facts *Facts) {
			f.begin(1, 0)
			f.complete(1, 1)
			f.begin(2, 1)
			f.complete(2, 1)
			facts.Generation = 3
		}, "restore 1, last 2, orphaned [2]"},
		{"nor does it if it is damaged", func(f folder, facts *Facts) {
			f.begin(1, 0)
			f.complete(1, 1)
			f.begin(2, 1)
			f.complete(2, 1)
			f[ManifestName(2)] = nil
			facts.Generation = 3
		}, "restore 1, last 2, orphaned [2]"},
		{"a run that never found out what to begin with changes nothing", func(f folder, facts *Facts) {
			f.begin(1, 0)
			f.complete(1, 1)
			f[GenerationName(2)] = Claim{2, 0}.Encode()
			f.complete(2, 1)
			facts.Generation = 3
		}, "restore 2, last 2"},
		{"a run that began anew leaves what was before", func(f folder, facts *Facts) {
			f.begin(1, 0)
			f.complete(1, 1)
			f.begin(2, 0)
			facts.Generation = 3
		}, "fresh"},
		{"of a run whose records are gone no manifest counts", func(f folder, facts *Facts) {
			f.begin(5, 1)
			f.complete(1, 4)
			facts.Generation = 6
		}, "fresh"},
		{"the savepoint that the job began with", func(f folder, facts *Facts) {
			f[GenerationName(1)] = Claim{1, 0}.Encode()
			f[BaseName(1)] = Base{Generation: 1, Savepoint: "file:///s"}.Encode()
		}, "restore savepoint file:///s"},
		{"a damaged base of a run that has had checkpoints is of no consequence", func(f folder, _ *Facts) {
			f.begin(1, 0)
			f[BaseName(1)][9] ^= 1
			f.complete(1, 1)
		}, "restore 1, last 1"},
		{"a damaged base of a run that has had none", func(f folder, facts *Facts) {
			f.begin(1, 0)
			f.complete(1, 1)
			f.begin(2, 1)
			f[BaseName(2)][9] ^= 1
			facts.Generation = 3
		}, "refuse: no checkpoint can be used: checkpoint 1: generation-00000002.base: "},
		{"a damaged base, which may have been a savepoint", func(f folder, _ *Facts) {
			f.begin(1, 0)
			f[BaseName(1)][9] ^= 1
		}, "refuse: what the job began with can't be read: generation-00000001.base: "},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, facts := folder{}, Facts{Generation: 2}
			c.make(f, &facts)
			if facts.Listed == nil {
				facts.Listed = f.list()
			}
			if got := print(f.recover(facts)); !strings.HasPrefix(strings.ReplaceAll(got, "checkpointing: ", ""), strings.ReplaceAll(c.want, "checkpointing: ", "")) || !strings.Contains(c.want, "but not") && strings.Contains(got, "but not") {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

func print(d Decision) string {
	s := d.Outcome.String()
	switch d.Outcome {
	case Restore:
		s += fmt.Sprintf(" %d, last %d", d.Manifest.Epoch, d.Last)
	case RestoreSavepoint:
		s += " " + d.Savepoint
	case Refuse:
		if fault.ClassOf(d.Err) != fault.Corruption {
			return "class " + fault.ClassOf(d.Err).String()
		}
		return s + ": " + d.Err.Error()
	}
	for _, skipped := range d.Skipped {
		s += fmt.Sprintf(", but not %d (%s)", skipped.Epoch, skipped.Reason)
	}
	if len(d.Orphaned) > 0 {
		s += fmt.Sprintf(", orphaned %d", d.Orphaned)
	}
	return s
}

func TestGarbage(t *testing.T) {
	f := folder{}
	f.begin(1, 0)
	one := f.complete(1, 1)
	two := f.complete(2, 1, one[0])
	f.begin(2, 2)
	orphan := f.complete(3, 1)
	lost := FileID{4, 2, 0, 0}.Name()
	f[ClaimName(4)], f[lost] = Claim{2, 0}.Encode(), nil
	three := f.complete(5, 2, two[0])
	f[ClaimName(6)] = Claim{2, 0}.Encode()
	f[FileID{6, 2, 0, 0}.Name()] = nil
	f["notes.txt"] = nil
	complete, orphans := f.survey(2)
	h := Holdings{Generation: 2, Listed: f.list(), Complete: complete, Orphaned: orphans, Retain: 1, UnderWay: []UnderWay{{6, 5}}}
	g, err := Collect(h)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{ManifestName(1), ManifestName(2), ManifestName(3)}
	if !slices.Equal(g.Manifests, want) {
		t.Errorf("manifests %v", g.Manifests)
	}
	want = []string{
		ClaimName(1), ClaimName(2), ClaimName(3), ClaimName(4),
		one[0].Name(), orphan[0].Name(), lost, BaseName(1),
	}
	slices.Sort(want)
	if !slices.Equal(g.Others, want) {
		t.Errorf("others %v\nnot    %v", g.Others, want)
	}
	_ = three

	h.UnderWay = []UnderWay{{4, 2}}
	if g, _ = Collect(h); slices.Contains(g.Manifests, ManifestName(2)) || slices.Contains(g.Others, lost) || slices.Contains(g.Others, one[0].Name()) {
		t.Errorf("epoch 4 is under way over 2: %v", g)
	}
	f.begin(3, 5)
	h.Listed = f.list()
	if _, err := Collect(h); fault.ClassOf(err) != fault.Fenced {
		t.Errorf("of a generation that was replaced: %v", err)
	}
}

// A damaged manifest shields what it may name, until enough whole ones have come after it.
func TestGarbageOfTheDamaged(t *testing.T) {
	f := folder{}
	f.begin(1, 0)
	f.complete(1, 1)
	own := f.complete(2, 1)
	f[ManifestName(2)][30] ^= 1
	collect := func() Garbage {
		complete, orphans := f.survey(2)
		g, err := Collect(Holdings{Generation: 1, Listed: f.list(), Complete: complete, Orphaned: orphans, Retain: 2})
		if err != nil {
			t.Fatal(err)
		}
		return g
	}
	f.complete(3, 1)
	if g := collect(); len(g.Manifests)+len(g.Others) > 0 {
		t.Errorf("%v", g)
	}
	f.complete(4, 1)
	if g := collect(); !slices.Contains(g.Manifests, ManifestName(2)) || !slices.Contains(g.Others, own[0].Name()) {
		t.Errorf("%v", g)
	}
}

// writer is a run of a job in the simulation, one step at a time.
type writer struct {
	generation uint64
	stale      []Object // listing, taken when the generation was claimed
	began      bool
	base       uint64
	epoch      uint64 // under way
	over       []File
	files      []File
	wrote      bool // the manifest, and not acted on it yet
	stopped    bool
	garbage    *Garbage
}

func (w *writer) replaced(f folder) bool {
	w.stopped = Replaced(w.generation, f.get(GenerationName(w.generation+1))) != nil
	return w.stopped
}

// Runs of a job that know nothing of each other, are interrupted anywhere, replaced while they go on,
// and come back later: what was acted on is never lost or forked, and never does
// a checkpoint that is retained, or that one may still go on from, lack a file.
func TestNoCheckpointIsLost(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := folder{}
		var runs []*writer
		acted := uint64(0) // the newest checkpoint that somebody acted on
		step := func(w *writer, choice int) {
			switch {
			case w.stopped:
			case !w.began:
				d := f.recover(Facts{Generation: w.generation, Listed: w.stale})
				if d.Outcome == Refuse || len(d.Skipped) > 0 {
					t.Fatalf("generation %d: %s", w.generation, print(d))
				}
				w.base = 0
				if d.Outcome == Restore {
					w.base, w.over = d.Manifest.Epoch, d.Manifest.Files
				}
				if w.replaced(f) {
					return
				}
				if w.base < acted {
					t.Fatalf("generation %d begins with %d, and %d was acted on", w.generation, w.base, acted)
				}
				if !f.create(BaseName(w.generation), Base{Generation: w.generation, Epoch: w.base}.Encode()) {
					t.Fatal("two of a generation")
				}
				w.began = true
			case w.garbage != nil: // one object at a time
				g := w.garbage
				switch {
				case len(g.Manifests) > 0:
					delete(f, g.Manifests[0])
					g.Manifests = g.Manifests[1:]
				case len(g.Others) > 0:
					delete(f, g.Others[0])
					g.Others = g.Others[1:]
				default:
					w.garbage = nil
				}
			case w.wrote:
				w.wrote = false
				if w.replaced(f) {
					return
				}
				acted = max(acted, w.epoch)
				w.over, w.epoch = w.files, 0
				complete, orphans := f.survey(w.generation + 1)
				g, err := Collect(Holdings{Generation: w.generation, Listed: f.list(), Complete: complete, Orphaned: orphans, Retain: 1 + choice%2})
				if err == nil {
					w.garbage = &g
				}
			case w.epoch == 0:
				n := uint64(1)
				for name := range f {
					if o := splitName(name); o.kind == epochClaim || o.kind == manifest {
						n = max(n, o.number+1)
					}
				}
				if f.create(ClaimName(n), Claim{w.generation, 0}.Encode()) {
					w.epoch, w.files = n, nil
					if choice%3 > 0 { // it goes on with some of what there is
						w.files = append(w.files, w.over[:len(w.over)*choice/10]...)
					}
				}
			case len(w.files) < 4 && choice > 2:
				own := File{FileID{w.epoch, w.generation, 0, uint64(len(w.files))}, 1, 0}
				f[own.Name()] = []byte{1}
				w.files = append(w.files, own)
			case choice == 0:
				w.epoch = 0 // it comes to nothing
			default:
				m := Manifest{Epoch: w.epoch, Generation: w.generation, KeyGroups: 1, Files: w.files}
				if !f.create(ManifestName(w.epoch), m.Encode()) {
					t.Fatalf("epoch %d has two manifests", w.epoch)
				}
				w.wrote = true
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"step": func(t *rapid.T) {
				if len(runs) > 0 {
					i := max(len(runs)-rapid.IntRange(1, 3).Draw(t, "back"), 0)
					for range rapid.IntRange(1, 8).Draw(t, "steps") {
						step(runs[i], rapid.IntRange(0, 9).Draw(t, "choice"))
					}
				}
			},
			"begin": func(t *rapid.T) {
				if len(runs) == 5 {
					t.Skip("enough")
				}
				w := &writer{generation: uint64(len(runs)) + 1}
				f[GenerationName(w.generation)] = Claim{w.generation, 0}.Encode()
				w.stale = f.list()
				runs = append(runs, w)
			},
			"look": func(t *rapid.T) {
				d := f.recover(Facts{Generation: uint64(len(runs)) + 1, Listed: f.list()})
				if d.Outcome == Refuse || len(d.Skipped) > 0 {
					t.Fatalf("nobody could go on: %s", print(d))
				}
				if acted > 0 && (d.Outcome != Restore || d.Manifest.Epoch < acted) {
					t.Fatalf("%d was acted on, and a new run would %s", acted, print(d))
				}
			},
		})
	})
}
