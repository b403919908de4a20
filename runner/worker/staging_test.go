package worker

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"pgregory.net/rapid"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable/coders"
	"github.com/lintelrun/lintel/portable/plan"
	"github.com/lintelrun/lintel/portable/urns"
	"github.com/lintelrun/lintel/runner/exchange"
	"github.com/lintelrun/lintel/runner/frame"
	"github.com/lintelrun/lintel/runner/keygroup"
)

// kvLayout is that of windowed KVs of bytes in the global window.
func kvLayout(t testing.TB) *coders.Windowed {
	t.Helper()
	coder := func(urn string, components ...string) *pipepb.Coder {
		return &pipepb.Coder{Spec: &pipepb.FunctionSpec{Urn: urn}, ComponentCoderIds: components}
	}
	w, err := coders.CompileWindowed("windowed", map[string]*pipepb.Coder{
		"bytes":    coder(urns.CoderBytes),
		"kv":       coder(urns.CoderKV, "bytes", "bytes"),
		"global":   coder(urns.CoderGlobalWindow),
		"windowed": coder(urns.CoderWindowedValue, "kv", "global"),
	})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func windowed(ts int64, element []byte) []byte {
	return append(coders.AppendHeader(nil, ts, 1, nil, []byte{coders.PaneNoFiring}), element...)
}

// routesTo makes one route per kind to so many tasks, all of sink "out".
func routesTo(layout *coders.Windowed, kinds []plan.EdgeKind, tasks []int) []route {
	var routes []route
	outlets := 0
	for i, kind := range kinds {
		routes = append(routes, route{
			edge:  &plan.Edge{Kind: kind, Sink: "out", Coder: layout},
			first: outlets, tasks: tasks[i], home: i % tasks[i],
		})
		outlets += tasks[i]
	}
	return routes
}

// collectStaged loads all frames, by outlet.
func collectStaged(t *rapid.T, s *staging, layout *coders.Windowed) map[int][]byte {
	got := map[int][]byte{}
	total := 0
	for _, st := range s.frames {
		total += st.frame.Bytes()
		f, err := st.frame.Load()
		if err != nil {
			t.Fatal(err)
		}
		n, low, err := layout.Count(f.Data)
		if err != nil || n != f.Elements || low != f.MinTimestamp {
			t.Fatalf("a frame of %d elements from %d on says %d from %d (%v)", n, low, f.Elements, f.MinTimestamp, err)
		}
		got[st.outlet] = append(got[st.outlet], f.Data...)
	}
	if total != s.bytes {
		t.Fatalf("%d bytes staged, says %d", total, s.bytes)
	}
	return got
}

// However output is cut into messages, each edge gets each element once, in
// order where the edge keeps one, at the task where it belongs.
func TestStagingRoutesEveryElement(t *testing.T) {
	layout := kvLayout(t)
	dir := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		kinds := rapid.SliceOfN(rapid.SampledFrom([]plan.EdgeKind{plan.Forward, plan.Keyed, plan.Rebalance}), 1, 4).Draw(t, "edges")
		var tasks []int
		for range kinds {
			tasks = append(tasks, rapid.IntRange(1, 4).Draw(t, "tasks"))
		}
		memory := rapid.Int64Range(0, 3000).Draw(t, "budget")
		budget := newBudget(memory, new(atomic.Int64))
		s := newStaging(routesTo(layout, kinds, tasks), []string{"out", "unread"}, rapid.IntRange(0, 9).Draw(t, "turn"), spiller{dir: dir, budget: budget})

		var all []byte
		keyed := make([][]byte, len(kinds)*4) // by edge and task
		var elements []string
		for i := range rapid.IntRange(0, 60).Draw(t, "elements") {
			key := fmt.Sprint("k", rapid.IntRange(0, 5).Draw(t, "key"))
			el := windowed(rapid.Int64Range(-100, 100).Draw(t, "ts"), kvOf(key, fmt.Sprint(i, strings.Repeat("x", rapid.IntRange(0, 90).Draw(t, "size")))))
			all = append(all, el...)
			elements = append(elements, string(el))
			group := keygroup.Of(keygroup.Hash(bytesOf(key)), keygroup.DefaultMax)
			for e := range kinds {
				task := keygroup.Task(group, tasks[e], keygroup.DefaultMax)
				keyed[4*e+task] = append(keyed[4*e+task], el...)
			}
		}
		for rest := slices.Clone(all); len(rest) > 0; {
			n := rapid.IntRange(1, min(len(rest), 400)).Draw(t, "chunk")
			// What lies behind a chunk belongs to others: it must not be written to.
			if err := s.add("out", rest[:n]); err != nil {
				t.Fatal(err)
			}
			if err := s.add("unread", rest[:n]); err != nil {
				t.Fatal(err)
			}
			rest = rest[n:]
		}
		if err := s.finish(); err != nil {
			t.Fatal(err)
		}
		s.spill.close()
		got := collectStaged(t, s, layout)

		first := 0
		for e, kind := range kinds {
			for task := range tasks[e] {
				mine := got[first+task]
				switch {
				case kind == plan.Forward && task == e%tasks[e] && !bytes.Equal(mine, all),
					kind == plan.Forward && task != e%tasks[e] && len(mine) > 0,
					kind == plan.Keyed && !bytes.Equal(mine, keyed[4*e+task]):
					t.Fatalf("edge %d, task %d: %d bytes are not those that belong there", e, task, len(mine))
				}
			}
			if kind == plan.Rebalance {
				wantSpread(t, layout, got, first, tasks[e], elements)
			}
			first += tasks[e]
		}
		if used := budget.used.Load(); used != 0 {
			t.Fatalf("%d of %d bytes used when all is loaded", used, memory)
		}
		if f := s.spill.file; f != nil && f.refs != 0 {
			t.Fatalf("%d references to the spill file when all is loaded", f.refs)
		}
	})
	wantEmpty(t, dir)
}

func wantSpread(t *rapid.T, layout *coders.Windowed, got map[int][]byte, first, tasks int, want []string) {
	var found []string
	for task := range tasks {
		var el coders.Element
		for rest := got[first+task]; len(rest) > 0; rest = rest[el.Size:] {
			if err := layout.Next(rest, &el); err != nil {
				t.Fatal(err)
			}
			found = append(found, string(rest[:el.Size]))
		}
	}
	want = slices.Sorted(slices.Values(want))
	slices.Sort(found)
	if !slices.Equal(found, want) {
		t.Fatalf("a rebalanced edge has %d elements, or others than the %d it should", len(found), len(want))
	}
}

func wantEmpty(t testing.TB, dir string) {
	t.Helper()
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left in %s: %v, %v", dir, left, err)
	}
}

// Bundles of one element each must not all go to the same task.
func TestSmallBundlesAreSpread(t *testing.T) {
	layout := kvLayout(t)
	tasks := map[int]bool{}
	for turn := range 4 {
		s := newStaging(routesTo(layout, []plan.EdgeKind{plan.Rebalance}, []int{4}), []string{"out"}, turn, spiller{})
		if err := s.add("out", windowed(0, kvOf("k", "v"))); err != nil {
			t.Fatal(err)
		}
		for _, f := range s.frames {
			tasks[f.outlet] = true
		}
	}
	if len(tasks) != 4 {
		t.Errorf("four bundles went to %d tasks", len(tasks))
	}
}

// Chunks of very many elements are dealt out evenly too, and whole.
func TestLargeChunksAreSpread(t *testing.T) {
	layout := kvLayout(t)
	var chunk []byte
	const n, tasks = 10*maxMarks + 7, 3
	for i := range n {
		chunk = append(chunk, windowed(int64(n-i), kvOf("k", fmt.Sprint(i)))...)
	}
	s := newStaging(routesTo(layout, []plan.EdgeKind{plan.Rebalance}, []int{tasks}), []string{"out"}, 0, spiller{})
	if err := s.add("out", chunk); err != nil {
		t.Fatal(err)
	}
	var all []byte
	for _, st := range s.frames {
		f, err := st.frame.Load()
		if err != nil {
			t.Fatal(err)
		}
		if got, low, err := layout.Count(f.Data); err != nil || got != f.Elements || low != f.MinTimestamp {
			t.Errorf("a frame says %d elements from %d on, and has %d from %d on: %v", f.Elements, f.MinTimestamp, got, low, err)
		}
		if f.Elements < n/tasks*9/10 || f.Elements > n/tasks*11/10 {
			t.Errorf("%d elements of %d for one of %d tasks", f.Elements, n, tasks)
		}
		all = append(all, f.Data...)
	}
	if !bytes.Equal(all, chunk) {
		t.Error("the frames are not the chunk")
	}
}

// A large element in many messages is copied a few times, not once per message.
func TestElementInManyMessages(t *testing.T) {
	const size, chunk = 8 << 20, 4 << 10
	layout := kvLayout(t)
	element := windowed(7, kvOf("k", string(make([]byte, size))))
	s := newStaging(routesTo(layout, []plan.EdgeKind{plan.Keyed}, []int{2}), []string{"out"}, 0, spiller{})
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for c := range slices.Chunk(element, chunk) {
		if err := s.add("out", c); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.finish(); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if len(s.frames) != 1 || s.bytes != len(element) {
		t.Fatalf("%d frames of %d bytes", len(s.frames), s.bytes)
	}
	if allocated := after.TotalAlloc - before.TotalAlloc; allocated > 10*size {
		t.Errorf("%d MB allocated for an element of %d MB", allocated>>20, size>>20)
	}
}

func TestOutputThatEndsWithinAnElement(t *testing.T) {
	layout := kvLayout(t)
	element := windowed(0, kvOf("key", "value"))
	for _, kind := range []plan.EdgeKind{plan.Forward, plan.Keyed, plan.Rebalance} {
		for n := range len(element) {
			s := newStaging(routesTo(layout, []plan.EdgeKind{kind}, []int{3}), []string{"out"}, 0, spiller{})
			err := s.add("out", element[:n:n])
			if err == nil {
				err = s.finish()
			}
			if n == 0 && err != nil {
				t.Error(err)
			}
			if n > 0 && fault.ClassOf(err) != fault.Corruption {
				t.Errorf("%d bytes of an element: %v", n, err)
			}
		}
	}
}

// FuzzStaging: no output of a harness makes us panic, hang or stage what is no element.
func FuzzStaging(f *testing.F) {
	layout := kvLayout(f)
	element := windowed(0, kvOf("key", "value"))
	f.Add(element, uint16(1))
	f.Add(append(slices.Clone(element), element[:9]...), uint16(3))
	f.Add(binary.BigEndian.AppendUint32(make([]byte, 8), 1<<31-1), uint16(100))
	f.Fuzz(func(t *testing.T, data []byte, chunk uint16) {
		s := newStaging(routesTo(layout, []plan.EdgeKind{plan.Forward, plan.Keyed, plan.Rebalance}, []int{1, 2, 3}), []string{"out"}, 0, spiller{})
		var err error
		for c := range slices.Chunk(slices.Clone(data), max(int(chunk), 1)) {
			if err = s.add("out", c); err != nil {
				break
			}
		}
		if err == nil {
			err = s.finish()
		}
		whole := 0
		for _, st := range s.frames {
			fr, err := st.frame.Load()
			if err != nil {
				t.Fatal(err)
			}
			n, _, err := layout.Count(fr.Data)
			if err != nil || n != fr.Elements {
				t.Fatalf("staged a frame of %d elements, it has %d: %v", fr.Elements, n, err)
			}
			if st.outlet == 0 {
				whole += fr.Bytes()
			}
		}
		if err == nil && whole != len(data) {
			t.Errorf("%d bytes of %d staged", whole, len(data))
		}
	})
}

func TestSpillerBudgetIsShared(t *testing.T) {
	dir := t.TempDir()
	shared := newBudget(100, new(atomic.Int64))
	a, b := spiller{dir: dir, budget: shared}, spiller{dir: dir, budget: shared}
	store := func(s *spiller, text string) interface {
		Load() (frame.Frame, error)
		Drop()
	} {
		t.Helper()
		st, err := s.store(frame.Frame{Data: []byte(text), Elements: 3, MinTimestamp: -7, Remote: 11})
		if err != nil {
			t.Fatal(err)
		}
		return st
	}
	sixty := string(bytes.Repeat([]byte("x"), 60))
	first := store(&a, sixty)
	second := store(&b, sixty)
	third := store(&b, "yyy")
	if a.spilled() != 0 || b.spilled() != 60 {
		t.Errorf("%d and %d bytes are spilled, want none and 60", a.spilled(), b.spilled())
	}
	wantEmpty(t, dir) // the file has no name
	b.close()
	f, err := second.Load()
	if err != nil || string(f.Data) != sixty || f.Elements != 3 || f.MinTimestamp != -7 || f.Remote != 11 {
		t.Errorf("it comes back as %+v, %v", f, err)
	}
	if b.file.refs != 0 {
		t.Error("the file is still open")
	}
	first.Drop()
	third.Drop()
	if used := shared.used.Load(); used != 0 {
		t.Errorf("%d bytes of 100 used", used)
	}
}

// Who shares a stored frame ends it by itself; memory and file are free when all have.
func TestStoredFramesAreShared(t *testing.T) {
	budget := newBudget(100, new(atomic.Int64))
	s := spiller{dir: t.TempDir(), budget: budget}
	for _, size := range []int{60, 70} { // the second is too much, and spilled
		data := bytes.Repeat([]byte{byte(size)}, size)
		first, err := s.store(frame.Frame{Data: data, Elements: 3})
		if err != nil {
			t.Fatal(err)
		}
		second := first.Share()
		third := second.Share()
		first.Drop()
		for _, shared := range []exchange.Stored{second, third} {
			if used := budget.used.Load(); used != 60 {
				t.Errorf("%d bytes of the budget are used while a frame of 60 is shared", used)
			}
			if f, err := shared.Load(); err != nil || !bytes.Equal(f.Data, data) || f.Elements != 3 || shared.Bytes() != size {
				t.Errorf("a frame of %d bytes comes as %+v, %v", size, f, err)
			}
		}
		if size == 60 {
			if used := budget.used.Load(); used != 0 {
				t.Errorf("%d bytes are used in the end", used)
			}
			if _, err := s.store(frame.Frame{Data: make([]byte, 60)}); err != nil {
				t.Fatal(err)
			}
		}
	}
	s.close()
	if s.file.refs != 0 {
		t.Errorf("%d references to the file are left", s.file.refs)
	}
}

// Jobs that run at once have equal parts of the budget, as many as they are just now.
func TestBudgetIsSharedByJobs(t *testing.T) {
	var jobs atomic.Int64
	a, b := newBudget(100, &jobs), newBudget(100, &jobs)
	for _, step := range []struct {
		jobs int64
		of   *budget
		n    int
		want bool
	}{
		{1, a, 60, true}, {1, a, 41, false}, {1, a, 40, true},
		{2, b, 51, false}, {2, b, 50, true}, {2, a, 1, false},
		{1, b, 50, true}, {1, b, 1, false},
	} {
		jobs.Store(step.jobs)
		if got := step.of.take(step.n); got != step.want {
			t.Errorf("%+v: got %v", step, got)
		}
	}
	if a.used.Load() != 100 || b.used.Load() != 100 {
		t.Errorf("%d and %d bytes are used", a.used.Load(), b.used.Load())
	}
}

func TestNoRoomOnDisk(t *testing.T) {
	s := spiller{dir: t.TempDir() + "/nowhere", budget: newBudget(0, new(atomic.Int64))}
	if _, err := s.store(frame.Frame{Data: []byte("x"), Elements: 1}); err == nil {
		t.Error("no error")
	}
	s.close()
}
