package protocol

import (
	"slices"
	"strings"
	"testing"

	"github.com/lintelrun/lintel/internal/fault"
)

// running is the pipeline of a job.
func running() Pipeline {
	return Pipeline{Transforms: []Transform{
		{Name: "count/group", URN: "group", Coder: "kv<string,varint>", Windowing: "fixed 60s", Keeps: true},
		{Name: "format", URN: "pardo", Coder: "string", Windowing: "fixed 60s"},
		{
			Name: "sum", URN: "pardo", Coder: "kv<string,varint>", Windowing: "global", Keeps: true,
			States: []StateSpec{{"buffer", "bag", "varint"}, {"total", "value", "varint"}},
			Timers: []TimerFamily{{"flush", "event time"}},
		},
	}}
}

func TestCompare(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*Pipeline)
		update Update
		want   string // findings but for what is just kept; ! is an error
	}{
		{"the same pipeline", func(*Pipeline) {}, Update{}, ""},
		{"what keeps nothing may come and go", func(p *Pipeline) {
			p.Transforms[1].Name = "print"
		}, Update{}, "dropped: format; added: print"},
		{"what keeps nothing may change", func(p *Pipeline) {
			p.Transforms[1].Coder = "bytes"
		}, Update{}, ""},
		{"state would be lost", func(p *Pipeline) {
			p.Transforms = p.Transforms[:2]
		}, Update{}, "dropped: sum: it has state, which would be lost [blocks]"},
		{"state is lost as allowed", func(p *Pipeline) {
			p.Transforms = p.Transforms[:2]
		}, Update{MayDrop: []string{"sum"}}, "dropped: sum: with its state, as allowed"},
		{"a new name needs a mapping", func(p *Pipeline) {
			p.Transforms[2].Name = "total"
		}, Update{}, `needs a name mapping: sum: it has state, and may now be called ["total"] [blocks]; added: total`},
		{"a new name with a mapping", func(p *Pipeline) {
			p.Transforms[2].Name = "total"
		}, Update{Names: map[string]string{"sum": "total"}}, "kept: total (was sum)"},
		{"a mapping of a composite", func(p *Pipeline) {
			p.Transforms[0].Name = "counting/group"
		}, Update{Names: map[string]string{"count": "counting"}}, "kept: counting/group (was count/group)"},
		{"a mapping of a part of a name is none", func(p *Pipeline) {
			p.Transforms[0].Name = "counting/group"
		}, Update{Names: map[string]string{"cou": "counti"}}, `! names "cou"`},
		{"a mapping to nothing", func(*Pipeline) {}, Update{Names: map[string]string{"sum": "total"}}, `! has no transform of that name`},
		{"a mapping of two to one", func(*Pipeline) {}, Update{Names: map[string]string{"format": "sum"}}, `! makes "sum" of both "format" and "sum"`},
		{"what may be dropped is not there", func(*Pipeline) {}, Update{MayDrop: []string{"som"}}, `! names "som"`},
		{"another coder", func(p *Pipeline) {
			p.Transforms[0].Coder = "kv<bytes,varint>"
		}, Update{}, "coder changed: count/group: input is kv<bytes,varint>, and was kv<string,varint> [blocks]"},
		{"another coder, and begin anew", func(p *Pipeline) {
			p.Transforms[0].Coder = "kv<bytes,varint>"
		}, Update{MayDrop: []string{"count/group"}}, "dropped: count/group: its state, as allowed"},
		{"other windows", func(p *Pipeline) {
			p.Transforms[0].Windowing = "fixed 30s"
		}, Update{}, "window changed: count/group: fixed 30s, and was fixed 60s [blocks]"},
		{"another transform", func(p *Pipeline) {
			p.Transforms[0].URN = "pardo"
		}, Update{}, "state changed: count/group: it is pardo now, and was group [blocks]"},
		{"a state is gone, and there is a new one", func(p *Pipeline) {
			p.Transforms[2].States = []StateSpec{{"average", "value", "double"}, {"buffer", "bag", "varint"}}
		}, Update{}, `state changed: sum: state "total" is gone [blocks]; state changed: sum: state "average" is new, and begins empty`},
		{"a state is gone as allowed", func(p *Pipeline) {
			p.Transforms[2].States = p.Transforms[2].States[:1]
		}, Update{MayDrop: []string{"sum:total"}}, `state changed: sum: state "total" is gone`},
		{"a state of another kind", func(p *Pipeline) {
			p.Transforms[2].States = []StateSpec{{"buffer", "set", "varint"}, {"total", "value", "double"}}
		}, Update{}, `state changed: sum: state "buffer" is of kind set, and was bag [blocks]; coder changed: sum: state "total" has coder double, and had varint [blocks]`},
		{"timers", func(p *Pipeline) {
			p.Transforms[2].Timers = []TimerFamily{{"flush", "processing time"}, {"new", "event time"}}
		}, Update{}, `timer changed: sum: timer "flush" is of processing time, and was of event time [blocks]; timer changed: sum: timer "new" is new`},
		{"a timer is gone", func(p *Pipeline) {
			p.Transforms[2].Timers = nil
		}, Update{}, `timer changed: sum: timer "flush" is gone [blocks]`},
	} {
		t.Run(c.name, func(t *testing.T) {
			to := running()
			c.change(&to)
			slices.SortFunc(to.Transforms, func(a, b Transform) int { return strings.Compare(a.Name, b.Name) })
			found, err := Compare(running(), to, c.update)
			if want, bad := strings.CutPrefix(c.want, "! "); bad {
				if fault.ClassOf(err) != fault.Invalid || !strings.Contains(err.Error(), want) {
					t.Errorf("%v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var lines []string
			for _, f := range found {
				if f.Verdict != Kept || f.Was != "" {
					lines = append(lines, f.String())
				}
			}
			if got := strings.Join(lines, "; "); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
			if blocked := len(Blocked(found)) > 0; blocked != strings.Contains(c.want, "[blocks]") {
				t.Errorf("blocked: %v", blocked)
			}
		})
	}
}

func TestDetach(t *testing.T) {
	m := example()
	m.Savepoint = false
	m.Files = append(m.Files, File{FileID{1, 1, 1, 1}, 5, 5}) // of no use to anything
	s, copies := Detach(m)
	if err := s.Validate(); err != nil {
		t.Fatal(err)
	}
	if !s.Savepoint || len(s.Files) != 3 || len(copies) != 3 {
		t.Fatalf("%d files, %d copies", len(s.Files), len(copies))
	}
	for i, c := range copies {
		if c.To != s.Files[i] || c.From.Size != c.To.Size || c.From.CRC32C != c.To.CRC32C {
			t.Errorf("copy %+v, file %+v", c, s.Files[i])
		}
	}
	for i, task := range m.Tasks {
		for j, p := range task.Parts {
			q := s.Tasks[i].Parts[j]
			if was, is := m.Files[p.Span.File], s.Files[q.Span.File]; was.CRC32C != is.CRC32C || p.Span.Offset != q.Span.Offset || p.Span.Length != q.Span.Length {
				t.Errorf("%+v became %+v", p, q)
			}
		}
	}
	listed := []Object{{copies[0].To.Name(), 1}, {"mine.txt", 1}, {SavepointManifest, 1}, {"files/mine", 1}}
	if got := SavepointObjects(listed); !slices.Equal(got, []string{SavepointManifest, copies[0].To.Name()}) {
		t.Errorf("%v", got)
	}
}
