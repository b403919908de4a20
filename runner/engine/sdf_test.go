package engine

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/lintelrun/lintel/runner/frame"
)

// span is an element of a splittable DoFn: the positions [from, to) of an id. What
// it puts out at a position has that for a timestamp.
type span struct{ id, from, to uint32 }

const spanBytes = 12

func (s span) frame() frame.Frame {
	data := binary.BigEndian.AppendUint32(nil, s.id)
	data = binary.BigEndian.AppendUint32(data, s.from)
	data = binary.BigEndian.AppendUint32(data, s.to)
	return frame.Frame{Data: data, Elements: 1, MinTimestamp: 0}
}

func (s span) size() int { return int(s.to) - int(s.from) }

func spansOf(frames []frame.Frame) (out []span) {
	for _, f := range frames {
		for d := f.Data; len(d) > 0; d = d[spanBytes:] {
			out = append(out, span{binary.BigEndian.Uint32(d), binary.BigEndian.Uint32(d[4:]), binary.BigEndian.Uint32(d[8:])})
		}
	}
	return out
}

func cutSpans(_ []byte, n int) (int, error) { return n * spanBytes, nil }

// sdf plays a harness that runs a splittable DoFn: it walks through the positions of
// its bundles, splits where it is asked to at wild places, checkpoints by itself,
// truncates and fails.
type sdf struct {
	t         *rapid.T
	task      *Task
	now       time.Time
	running   map[BundleID]*walk
	asked     map[BundleID]SplitRequest
	seen      map[span]int // by single positions, in committed output or truncated away
	watermark int64
	wants     map[span]time.Time
	truncated map[span]bool // residuals that were
	drained   bool
}

// walk is an attempt: where it is, and what of its input it still has.
type walk struct {
	bundle   *Bundle
	elements []span
	bound    int // elements that it has not given away
	at       int // the current element
	end      uint32
	begun    bool // at has been truncated, if it has to be
	next     uint32
	done     []span // single positions
	dropped  []span
}

func (w *walk) begin() {
	if w.begun || w.at >= w.bound {
		return
	}
	e := w.elements[w.at]
	w.begun, w.next, w.end = true, e.from, e.to
	if w.bundle.Truncate {
		w.end = e.from + uint32(e.size())/2
		for p := w.end; p < e.to; p++ {
			w.dropped = append(w.dropped, span{e.id, p, p + 1})
		}
	}
}

// step processes one position and reports whether there is more.
func (w *walk) step() bool {
	w.begin()
	if w.at >= w.bound {
		return false
	}
	if w.next < w.end {
		w.done = append(w.done, span{w.elements[w.at].id, w.next, w.next + 1})
		w.next++
	}
	if w.next >= w.end {
		w.at, w.begun = w.at+1, false
	}
	return w.at < w.bound
}

func (s *sdf) ready() Ready {
	r, err := s.task.Ready(s.now)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, b := range r.Start {
		w := &walk{bundle: b, elements: spansOf(b.Frames)}
		w.bound = len(w.elements)
		s.running[b.ID] = w
		for _, e := range w.elements {
			if b.Truncate && b.Attempt == 1 && s.truncated[e] {
				s.t.Fatalf("%v is truncated again", e)
			}
			if at, delayed := s.wants[e]; delayed && s.now.Before(at) {
				s.t.Fatalf("%v comes back %v too early", e, at.Sub(s.now))
			}
		}
		if b.Truncate && !s.drained {
			s.t.Fatal("a bundle truncates what is not drained")
		}
	}
	for _, q := range r.Splits {
		if w := s.running[q.ID]; w == nil || q.Elements != len(w.elements) {
			s.t.Fatalf("split asked for: %+v", q)
		}
		if _, again := s.asked[q.ID]; again {
			s.t.Fatalf("bundle %d is asked twice at once", q.ID)
		}
		s.asked[q.ID] = q
	}
	if r.Advanced {
		s.watermark = r.Watermark
	}
	return r
}

func (s *sdf) residual(e span, truncated bool) Residual {
	r := Residual{Frame: e.frame(), OutputWatermark: int64(e.from), Bounded: rapid.Bool().Draw(s.t, "bounded")}
	s.truncated[e] = s.truncated[e] || truncated
	if rapid.Bool().Draw(s.t, "delay") {
		r.Delay = rapid.SampledFrom([]time.Duration{-time.Second, time.Millisecond, time.Second, time.Minute}).Draw(s.t, "by")
		s.wants[e] = s.now.Add(r.Delay)
	}
	return r
}

// split answers a request: a cut within the current element, or behind it, or none.
func (s *sdf) split(id BundleID) {
	q := s.asked[id]
	delete(s.asked, id)
	w := s.running[id]
	answer := Split{}
	w.begin()
	if w.at < w.bound && rapid.IntRange(0, 4).Draw(s.t, "answer") > 0 {
		e := w.elements[w.at]
		left := int(w.end - w.next)
		keep := rapid.IntRange(0, left).Draw(s.t, "keep")
		if q.Fraction == 0 {
			keep = 0
		}
		switch behind := rapid.IntRange(w.at+1, w.bound).Draw(s.t, "behind"); {
		case keep < left && rapid.Bool().Draw(s.t, "within"):
			cut := w.next + uint32(keep)
			answer = Split{LastPrimary: w.at - 1, FirstResidual: w.at + 1,
				Residuals: []Residual{s.residual(span{e.id, cut, w.end}, w.bundle.Truncate)}}
			if cut > e.from {
				answer.Primaries = []frame.Frame{span{e.id, e.from, cut}.frame()}
			}
			w.end, w.bound = cut, w.at+1
			s.lose(w) // what has been truncated of e is in neither part
		case behind < w.bound || w.bound < len(w.elements):
			answer = Split{LastPrimary: behind - 1, FirstResidual: behind}
			if len(s.parts(w)) > 0 {
				answer = Split{} // of an element that was cut before there is no more to give
				break
			}
			w.bound = behind
		}
	}
	if err := s.task.Split(id, answer, s.now); err != nil {
		s.t.Fatalf("%+v: %v", answer, err)
	}
}

// parts is the current element, if it has been cut.
func (s *sdf) parts(w *walk) []span {
	if w.begun && w.end != w.elements[w.at].to && w.bound == w.at+1 {
		return w.elements[w.at : w.at+1]
	}
	return nil
}

// lose notes positions that truncation has dropped for good.
func (s *sdf) lose(w *walk) {
	for _, p := range w.dropped {
		if p.id == w.elements[w.at].id {
			s.seen[p]++
		}
	}
	w.dropped = slices.DeleteFunc(w.dropped, func(p span) bool { return p.id == w.elements[w.at].id })
}

func (s *sdf) finish(id BundleID) {
	w := s.running[id]
	delete(s.running, id)
	if w.bundle.Attempt <= 3 && rapid.IntRange(0, 2).Draw(s.t, "fail") == 0 {
		if err := s.task.Failed(id, errUser); err != nil {
			s.t.Fatal(err)
		}
		return
	}
	var result Result
	for stop := rapid.IntRange(0, 9).Draw(s.t, "checkpoint after"); w.at < w.bound; stop-- {
		if stop != 0 {
			w.step()
			continue
		}
		// It gives back the rest of the current element by itself and goes on with the next.
		w.begin()
		if w.next < w.end {
			result.Residuals = append(result.Residuals, s.residual(span{w.elements[w.at].id, w.next, w.end}, w.bundle.Truncate))
		}
		w.at, w.begun = w.at+1, false
	}
	for _, p := range w.done {
		if int64(p.from) < s.watermark {
			s.t.Fatalf("bundle %d puts out %v behind the watermark %d", id, p, s.watermark)
		}
		s.seen[p]++
		result.OutputBytes++
	}
	for _, p := range w.dropped {
		s.seen[p]++
	}
	s.task.Succeeded(id, result, s.now)
}

// sdfJob is what becomes of a few elements.
type sdfJob struct {
	*sdf
	cfg      Config
	lengths  []int
	sent     int // of lengths
	received int // bytes
	credit   int
}

func newSDFJob(t *rapid.T) *sdfJob {
	s := &sdf{t: t, now: time.Unix(1e9, 0), running: map[BundleID]*walk{}, asked: map[BundleID]SplitRequest{},
		seen: map[span]int{}, wants: map[span]time.Time{}, truncated: map[span]bool{}, watermark: frame.MinTimestamp}
	j := &sdfJob{sdf: s, cfg: Config{Main: 1, Cut: cutSpans, Splittable: true, Attempts: 5,
		InFlight:    rapid.IntRange(1, 4).Draw(t, "in flight"),
		Limits:      Limits{First: rapid.IntRange(1, 5).Draw(t, "first")},
		Checkpoints: Checkpoints{Unbounded: rapid.Bool().Draw(t, "unbounded"), Truncates: true}}}
	s.task = NewTask(j.cfg)
	j.lengths = rapid.SliceOfN(rapid.IntRange(0, 20), 1, 8).Draw(t, "lengths")
	return j
}

// run runs the job to its end; after each step it calls then.
func (j *sdfJob) run(then func()) {
	drainAt := rapid.IntRange(-20, 40).Draw(j.t, "drain at")
	for step := 0; !j.step(step == drainAt); step++ {
		if step > 5000 {
			j.t.Fatalf("no end: %d running, %d delayed", len(j.running), len(j.task.delayed))
		}
		then()
	}
	if j.credit != j.received {
		j.t.Errorf("credit for %d bytes came back, of %d", j.credit, j.received)
	}
	for id, n := range j.lengths {
		for p := range uint32(n) {
			if got := j.seen[span{uint32(id), p, p + 1}]; got != 1 {
				j.t.Errorf("position %d of element %d: %d times", p, id, got)
			}
		}
	}
	if j.watermark != frame.MaxTimestamp {
		j.t.Errorf("the watermark ends at %d", j.watermark)
	}
}

func (j *sdfJob) step(drain bool) (done bool) {
	s, t := j.sdf, j.t
	if j.sent < len(j.lengths) && rapid.Bool().Draw(t, "arrive") {
		f := j.next()
		for j.sent < len(j.lengths) && rapid.Bool().Draw(t, "together") {
			f.Data, f.Elements = append(f.Data, j.next().Data...), f.Elements+1
		}
		j.received += f.Bytes()
		s.task.Frame(f, s.task.ChannelWatermark())
	}
	if j.sent == len(j.lengths) {
		s.task.Watermark(0, frame.MaxTimestamp)
	}
	if drain {
		s.drained = true
		s.task.Drain(s.now)
	}
	s.now = s.now.Add(time.Duration(rapid.IntRange(1, 700).Draw(t, "ms")) * time.Millisecond)
	s.task.Idle(rapid.IntRange(0, 2).Draw(t, "idle"))
	r := s.ready()
	j.credit += r.Consumed
	for _, id := range slices.Sorted(maps.Keys(s.running)) {
		if s.running[id].step(); rapid.Bool().Draw(t, "produced") {
			s.task.Produced(id, s.now)
		}
		if _, ok := s.asked[id]; ok {
			s.split(id)
		} else if rapid.IntRange(0, 3).Draw(t, "finish") == 0 {
			s.finish(id)
		}
	}
	return r.Done
}

func (j *sdfJob) next() frame.Frame {
	j.sent++
	return span{uint32(j.sent - 1), 0, uint32(j.lengths[j.sent-1])}.frame()
}

// Whatever is interrupted, split, checkpointed, truncated and tried again: each
// position of each element is put out once or truncated away, none behind the
// watermark and none before its time.
func TestSplittableElementsAreProcessedOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) { newSDFJob(t).run(func() {}) })
}

func TestUnboundedBundlesAreInterrupted(t *testing.T) {
	task := NewTask(Config{Main: 1, Cut: cutSpans, Splittable: true, Checkpoints: Checkpoints{Unbounded: true}})
	now := time.Unix(1e9, 0)
	task.Frame(span{0, 0, 1000}.frame(), task.ChannelWatermark())
	task.Watermark(0, frame.MaxTimestamp)
	var intervals []string
	for round, output := range []int{9, 9, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9} {
		r, err := task.Ready(now)
		if err != nil || len(r.Start) != 1 || len(r.Splits) != 0 || r.Wake.IsZero() {
			t.Fatalf("%+v, %v", r, err)
		}
		began := now
		id := r.Start[0].ID
		now = r.Wake
		intervals = append(intervals, fmt.Sprint(now.Sub(began)))
		if r, err = task.Ready(now); err != nil || len(r.Splits) != 1 || r.Splits[0].Fraction != 0 {
			t.Fatalf("%+v, %v", r, err)
		}
		next := span{0, 0, 1000}
		if output > 0 {
			next.from = uint32(round)
		}
		answer := Split{LastPrimary: -1, FirstResidual: 1, Residuals: []Residual{{Frame: next.frame()}}}
		if err := task.Split(id, answer, now); err != nil {
			t.Fatal(err)
		}
		task.Succeeded(id, Result{OutputBytes: output}, now)
	}
	want := []string{"10ms", "10ms", "10ms", "20ms", "40ms", "80ms", "40ms", "80ms", "160ms", "320ms", "640ms", "1.28s", "2.56s", "5.12s", "10.24s", "20.48s", "30s"}
	if !slices.Equal(intervals, want) {
		t.Errorf("bundles run for %v", intervals)
	}
}

// What is cut off a bundle by an interruption waits until the bundle, or another attempt at
// it, has ended well; it holds the watermark meanwhile.
func TestInterruptedBundlesEndBeforeTheirRestStarts(t *testing.T) {
	task := NewTask(Config{Main: 1, Cut: cutSpans, Splittable: true, InFlight: 4, Checkpoints: Checkpoints{Unbounded: true}})
	now := time.Unix(1e9, 0)
	task.Frame(span{0, 5, 9}.frame(), task.ChannelWatermark())
	task.Watermark(0, frame.MaxTimestamp)
	r, _ := task.Ready(now)
	now = r.Wake
	if r, _ := task.Ready(now); len(r.Splits) != 1 {
		t.Fatalf("%+v: the bundle goes on", r)
	}
	id := r.Start[0].ID
	if err := task.Split(id, Split{LastPrimary: -1, FirstResidual: 1,
		Primaries: []frame.Frame{span{0, 5, 7}.frame()},
		Residuals: []Residual{{Frame: span{0, 7, 9}.frame(), OutputWatermark: 7}},
	}, now); err != nil {
		t.Fatal(err)
	}
	if r, _ := task.Ready(now); len(r.Start) != 0 {
		t.Errorf("%v starts beside the bundle", spansOf(r.Start[0].Frames))
	}
	if err := task.Failed(id, errUser); err != nil {
		t.Fatal(err)
	}
	r, _ = task.Ready(now)
	if len(r.Start) != 1 || !slices.Equal(spansOf(r.Start[0].Frames), []span{{0, 5, 7}}) {
		t.Fatalf("%+v: not the part that the bundle kept", r)
	}
	task.Succeeded(id, Result{}, now)
	r, _ = task.Ready(now)
	if len(r.Start) != 1 || !slices.Equal(spansOf(r.Start[0].Frames), []span{{0, 7, 9}}) {
		t.Fatalf("%+v: not the rest", r)
	}
	if !r.Advanced || r.Watermark != 7 {
		t.Errorf("the watermark is %d, at the rest's 7", r.Watermark)
	}
	task.Succeeded(r.Start[0].ID, Result{}, now)
	if r, _ := task.Ready(now); !r.Done {
		t.Errorf("%+v: the task is not done", r)
	}
}

// Interruptions that take long are few.
func TestCostlyInterruptionsAreRare(t *testing.T) {
	p := newPace(Checkpoints{Unbounded: true})
	now := time.Unix(1e9, 0)
	for output, want := range map[int]time.Duration{1 << 20: 400 * time.Millisecond, 1: 80 * time.Millisecond} {
		for range 50 {
			p.observe(&Bundle{interrupted: now, paced: p.interval}, output, now.Add(20*time.Millisecond))
		}
		if got := p.interval.Round(time.Millisecond); got != want {
			t.Errorf("bundles of 20 ms more than their time, with %d bytes of output, run for %v", output, got)
		}
	}
	p.observe(&Bundle{}, 0, now)
	if p.interval > 400*time.Millisecond {
		t.Error("a bundle that ended by itself says something about interruptions")
	}
}

// What comes back by itself is given time to, until it does not.
func TestBundlesThatEndByThemselvesAreLeftAlone(t *testing.T) {
	p := newPace(Checkpoints{Unbounded: true})
	now := time.Unix(1e9, 0)
	for range 20 {
		p.observe(&Bundle{}, 1, now)
	}
	if got := p.first(); got != 100*time.Millisecond {
		t.Errorf("bundles like those that ended by themselves run for %v before they are interrupted", got)
	}
	p.observe(&Bundle{interrupted: now, paced: p.interval}, 1, now)
	if got := p.first(); got != p.Least {
		t.Errorf("after an interruption that yielded output bundles run for %v", got)
	}
}

// Bundles that ran side by side and had nothing to show double the pace once, not once each.
func TestOneRoundOfBundlesIsOneLesson(t *testing.T) {
	p := newPace(Checkpoints{Unbounded: true})
	now := time.Unix(1e9, 0)
	for round, want := range []time.Duration{20 * time.Millisecond, 40 * time.Millisecond, 80 * time.Millisecond} {
		paced := p.interval
		for range 8 {
			p.observe(&Bundle{interrupted: now, paced: paced}, 0, now)
		}
		if p.interval != want {
			t.Fatalf("after round %d bundles run for %v, want %v", round, p.interval, want)
		}
	}
	for _, paced := range []time.Duration{p.interval, p.interval} {
		p.observe(&Bundle{interrupted: now, paced: paced}, 1, now)
	}
	if want := 40 * time.Millisecond; p.interval != want {
		t.Errorf("after output of two, bundles run for %v, want %v", p.interval, want)
	}
}

// Without truncation in the SDK, what remains of unbounded work is dropped.
func TestDrainWithoutTruncation(t *testing.T) {
	task := NewTask(Config{Main: 1, Cut: cutSpans, Splittable: true, Checkpoints: Checkpoints{Unbounded: true}})
	now := time.Unix(1e9, 0)
	task.Frame(span{0, 0, 10}.frame(), task.ChannelWatermark())
	task.Watermark(0, frame.MaxTimestamp)
	r, _ := task.Ready(now)
	task.Drain(now)
	if r, _ := task.Ready(now); len(r.Splits) != 1 || r.Splits[0].Fraction != 0 {
		t.Fatalf("%+v: the bundle goes on", r)
	}
	if err := task.Split(r.Start[0].ID, Split{LastPrimary: -1, FirstResidual: 1, Residuals: []Residual{
		{Frame: span{0, 5, 10}.frame(), Delay: time.Hour}, {Frame: span{1, 0, 3}.frame(), Bounded: true},
	}}, now); err != nil {
		t.Fatal(err)
	}
	task.Succeeded(r.Start[0].ID, Result{}, now)
	r, _ = task.Ready(now)
	if len(r.Start) != 1 || !slices.Equal(spansOf(r.Start[0].Frames), []span{{1, 0, 3}}) {
		t.Fatalf("%+v", r)
	}
	task.Succeeded(r.Start[0].ID, Result{}, now)
	if r, _ := task.Ready(now); !r.Done {
		t.Errorf("%+v: the task is not done", r)
	}
}
