package engine

import (
	"encoding/binary"
	"maps"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/lintelrun/lintel/runner/frame"
)

// Halves of an element that a split has cut in two.
const (
	firstHalf  = 1 << 31
	secondHalf = 1 << 30
	number     = secondHalf - 1
)

// splitter plays the harness: it runs bundles of numbered elements, splits them
// where it likes and counts which halves of which elements it has processed.
type splitter struct {
	task    *Task
	now     time.Time
	running map[BundleID]*attempt
	asked   map[BundleID]bool
	done    map[uint32]int
	tries   map[BundleID]int
}

type attempt struct {
	sent  []uint32
	end   int      // what the harness still processes whole
	bound int      // what it has not given away
	extra []uint32 // parts of elements that it keeps
}

func (s *splitter) ready(t *rapid.T) Ready {
	r, err := s.task.Ready(s.now)
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range r.Start {
		ids := numbers(b.Frames)
		s.running[b.ID] = &attempt{sent: ids, end: len(ids), bound: len(ids)}
	}
	for _, q := range r.Splits {
		a := s.running[q.ID]
		if a == nil || s.asked[q.ID] || q.Elements != len(a.sent) || q.Fraction <= 0 || q.Fraction >= 1 {
			t.Fatalf("split asked for: %+v", q)
		}
		s.asked[q.ID] = true
	}
	return r
}

func block(ids ...uint32) frame.Frame {
	var data []byte
	for _, id := range ids {
		data = binary.BigEndian.AppendUint32(data, id)
	}
	return frame.Frame{Data: data, Elements: len(ids), MinTimestamp: 10}
}

// split gives back what comes after a random position, cutting the element there in two if it is whole.
func (s *splitter) split(t *rapid.T, id BundleID) {
	delete(s.asked, id)
	a := s.running[id]
	var answer Split
	if at := rapid.IntRange(0, a.bound).Draw(t, "split at"); at < a.bound && len(a.extra) == 0 {
		answer.LastPrimary, answer.FirstResidual = at-1, at
		if e := a.sent[at]; e&^number == 0 && rapid.Bool().Draw(t, "cut") {
			answer.FirstResidual = at + 1
			a.extra = []uint32{e | firstHalf}
			answer.Primaries = []frame.Frame{block(e | firstHalf)}
			hold := rapid.Int64Range(0, 100).Draw(t, "hold")
			answer.Residuals = []Residual{{Frame: block(e | secondHalf), OutputWatermark: hold}}
		}
		if answer.FirstResidual > 0 { // harnesses keep something
			a.end, a.bound = at, answer.FirstResidual
		} else {
			answer = Split{}
		}
	}
	if err := s.task.Split(id, answer, s.now); err != nil {
		t.Fatal(err)
	}
}

func (s *splitter) finish(t *rapid.T, id BundleID) {
	a := s.running[id]
	delete(s.running, id)
	if s.tries[id] < 2 && rapid.Bool().Draw(t, "fail") {
		s.tries[id]++
		if err := s.task.Failed(id, errUser); err != nil {
			t.Fatal(err)
		}
		return
	}
	for _, e := range append(a.sent[:a.end:a.end], a.extra...) {
		s.done[e]++
	}
	s.task.Succeeded(id, Result{}, s.now)
}

// Whatever is split and whatever fails, each element is processed once: whole,
// or its first and its second half.
func TestSplitsLoseAndDoubleNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := &splitter{
			now: time.Unix(1e9, 0), running: map[BundleID]*attempt{}, asked: map[BundleID]bool{},
			done: map[uint32]int{}, tries: map[BundleID]int{},
		}
		s.task = NewTask(Config{Main: 1, Cut: cutElements, Limits: Limits{First: rapid.IntRange(1, 9).Draw(t, "first")}})
		total, next, received, credit := rapid.IntRange(1, 40).Draw(t, "elements"), uint32(0), 0, 0
		finished := false
		for step := 0; !finished; step++ {
			if int(next) < total && rapid.Bool().Draw(t, "arrive") {
				var ids []uint32
				for n := rapid.IntRange(1, 7).Draw(t, "n"); n > 0 && int(next) < total; n-- {
					ids = append(ids, next)
					next++
				}
				received += 4 * len(ids)
				s.task.Frame(block(ids...), s.task.ChannelWatermark())
			}
			if int(next) == total {
				s.task.Watermark(0, frame.MaxTimestamp)
			}
			s.now = s.now.Add(300 * time.Millisecond)
			s.task.Idle(rapid.IntRange(0, 2).Draw(t, "idle"))
			r := s.ready(t)
			credit += r.Consumed
			finished = r.Done
			for _, id := range slices.Sorted(maps.Keys(s.running)) {
				if s.asked[id] {
					s.split(t, id)
				} else if rapid.IntRange(0, 3).Draw(t, "finish") == 0 || step > 500 {
					s.finish(t, id)
				}
			}
		}
		if credit != received {
			t.Errorf("credit for %d bytes came back, of %d", credit, received)
		}
		for id := range uint32(total) {
			whole, first, second := s.done[id], s.done[id|firstHalf], s.done[id|secondHalf]
			if whole+first != 1 || whole+second != 1 {
				t.Errorf("element %d: %d times whole, %d its first half, %d its second", id, whole, first, second)
			}
		}
	})
}

func TestStatefulTasksAreNotSplit(t *testing.T) {
	task := NewTask(Config{Main: 1, Cut: cutElements, Timers: &someTimers{}, Limits: Limits{First: 1}})
	task.Frame(block(1, 2, 3), task.ChannelWatermark())
	task.Idle(5)
	now := time.Unix(0, 0)
	r, err := task.Ready(now)
	if err != nil || len(r.Start) != 1 {
		t.Fatalf("%d bundles start, %v: bundles of one task may share keys", len(r.Start), err)
	}
	if r, err = task.Ready(now.Add(time.Hour)); err != nil || len(r.Splits) > 0 || len(r.Start) > 0 {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestSplitAgainstTheProtocol(t *testing.T) {
	task := NewTask(Config{Main: 1, Cut: cutElements})
	task.Frame(block(1, 2, 3), task.ChannelWatermark())
	now := time.Unix(0, 0)
	if _, err := task.Ready(now); err != nil {
		t.Fatal(err)
	}
	if err := task.Split(1, Split{LastPrimary: 2, FirstResidual: 1}, now); err == nil {
		t.Error("positions in the wrong order are accepted")
	}
	if err := task.Split(1, Split{LastPrimary: 0, FirstResidual: 2}, now); err == nil {
		t.Error("an element that neither side has is accepted")
	}
	if err := task.Split(1, Split{Residuals: []Residual{{Frame: block(2)}}}, now); err == nil {
		t.Error("a residual of no position is accepted, or lost")
	}
	if err := task.Split(1, Split{LastPrimary: 0, FirstResidual: 2, Primaries: []frame.Frame{block(2 | firstHalf)}}, now); err != nil {
		t.Fatal(err)
	}
	if err := task.Split(1, Split{LastPrimary: -1, FirstResidual: 1}, now); err == nil {
		t.Error("an element that was cut in two is given away whole")
	}
	if err := task.Split(7, Split{}, now); err == nil {
		t.Error("the split of a bundle that does not run is accepted")
	}
}
