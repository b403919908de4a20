package engine

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/runner/frame"
)

// elementSize is the length of an element in these tests: its number.
const elementSize = 4

func cutElements(data []byte, n int) (int, error) {
	if n*elementSize > len(data) {
		return 0, fmt.Errorf("%d elements of %d bytes", n, len(data))
	}
	return n * elementSize, nil
}

// element is what the model knows of one that is not yet committed.
type element struct {
	low      int64 // what it holds the input watermark at
	residual bool
	hold     int64     // of a residual
	due      time.Time // of a residual
	bundle   BundleID  // that it is or was in, 0 if none
}

// model is a task and what it ought to be: slow, and with no structure in common.
type model struct {
	task *Task
	cfg  Config
	now  time.Time

	next     uint32
	open     map[uint32]*element // not committed
	inbox    []uint32            // those of open in no bundle, in order
	main     []int64
	side     []int64
	running  map[BundleID]*Bundle
	failed   map[BundleID][]byte // input of bundles to try again
	attempts map[BundleID]int
	received int // bytes of frames
	credited int // bytes of frames, by Ready
	earned   int // bytes of frames, by what was committed
	blocked  bool
	input    int64
	output   int64
	done     bool
	dead     bool // the attempts of a bundle are used up
}

func newModel(t *rapid.T) *model {
	m := &model{
		now:      time.Unix(1e9, 0),
		open:     map[uint32]*element{},
		running:  map[BundleID]*Bundle{},
		failed:   map[BundleID][]byte{},
		attempts: map[BundleID]int{},
		input:    frame.MinTimestamp,
		output:   frame.MinTimestamp,
	}
	m.main = channels(rapid.IntRange(0, 3).Draw(t, "main"))
	m.side = channels(rapid.IntRange(0, 2).Draw(t, "side"))
	m.cfg = Config{
		Main: len(m.main), Side: len(m.side),
		InFlight: rapid.IntRange(1, 3).Draw(t, "in flight"),
		Attempts: rapid.IntRange(2, 4).Draw(t, "attempts"),
		Limits: Limits{
			First:    rapid.IntRange(1, 6).Draw(t, "first"),
			Elements: rapid.IntRange(1, 12).Draw(t, "elements"),
			Bytes:    rapid.IntRange(1, 60).Draw(t, "bytes"),
		},
		Cut: cutElements,
	}
	m.task = NewTask(m.cfg)
	return m
}

func channels(n int) []int64 {
	return slices.Repeat([]int64{frame.MinTimestamp}, n)
}

func (m *model) newElements(n int, e element) []byte {
	var data []byte
	for range n {
		m.next++
		data = binary.BigEndian.AppendUint32(data, m.next)
		copied := e
		m.open[m.next] = &copied
	}
	return data
}

func numbers(frames []frame.Frame) (ids []uint32) {
	for _, f := range frames {
		for d := f.Data; len(d) > 0; d = d[elementSize:] {
			ids = append(ids, binary.BigEndian.Uint32(d))
		}
	}
	return ids
}

func (m *model) frame(t *rapid.T) {
	if m.done || minOf(m.main) == frame.MaxTimestamp {
		return // all input has come
	}
	n, ts := rapid.IntRange(0, 8).Draw(t, "elements"), timestamps().Draw(t, "ts")
	behind := min(minOf(m.main), minOf(m.side))
	if rapid.Bool().Draw(t, "kept by the worker until now") {
		behind = frame.MinTimestamp
	}
	data := m.newElements(n, element{low: max(ts, behind)})
	m.received += len(data)
	m.inbox = append(m.inbox, numbers([]frame.Frame{{Data: data}})...)
	m.task.Frame(frame.Frame{Data: data, Elements: n, MinTimestamp: ts}, behind)
}

func (m *model) watermark(t *rapid.T, channels []int64, advance func(int, int64)) {
	if len(channels) == 0 {
		return
	}
	c, ts := rapid.IntRange(0, len(channels)-1).Draw(t, "channel"), timestamps().Draw(t, "ts")
	channels[c] = max(channels[c], ts)
	advance(c, ts)
}

func (m *model) succeed(t *rapid.T) {
	b := m.draw(t)
	if b == nil {
		return
	}
	r := Result{OutputBytes: rapid.SampledFrom([]int{0, 1 << 20, 1 << 30}).Draw(t, "output bytes")}
	for range rapid.IntRange(0, 2).Draw(t, "residuals") {
		e := element{residual: true, hold: timestamps().Draw(t, "hold")}
		delay := rapid.SampledFrom([]time.Duration{-time.Second, 0, time.Second, 3 * time.Second}).Draw(t, "delay")
		e.due = m.now.Add(max(delay, 0))
		// Its own timestamp must not matter: a residual of a source has the first of all.
		f := frame.Frame{Data: m.newElements(1, e), Elements: 1, MinTimestamp: frame.MinTimestamp}
		r.Residuals = append(r.Residuals, Residual{Frame: f, OutputWatermark: e.hold, Delay: delay})
	}
	for _, id := range numbers(b.Frames) {
		e := m.open[id]
		if e == nil {
			t.Fatalf("element %d was committed before", id)
		}
		if !e.residual {
			m.earned += elementSize
		}
		delete(m.open, id)
	}
	delete(m.running, b.ID)
	m.task.Succeeded(b.ID, r, m.now)
}

var errUser = fault.New(fault.UserCode, "boom")

func (m *model) fail(t *rapid.T) {
	b := m.draw(t)
	if b == nil {
		return
	}
	attempt := b.Attempt
	delete(m.running, b.ID)
	m.failed[b.ID] = join(b.Frames)
	err := m.task.Failed(b.ID, errUser)
	if m.dead = attempt == m.cfg.Attempts; !m.dead {
		if err != nil {
			t.Fatalf("attempt %d of %d: %v", attempt, m.cfg.Attempts, err)
		}
		return
	}
	if !errors.Is(err, errUser) || fault.ClassOf(err) != fault.UserCode || !strings.Contains(err.Error(), fmt.Sprintf("failed %d times", attempt)) {
		t.Fatalf("attempt %d of %d: %v", attempt, m.cfg.Attempts, err)
	}
}

func (m *model) draw(t *rapid.T) *Bundle {
	if len(m.running) == 0 {
		return nil
	}
	return m.running[rapid.SampledFrom(slices.Sorted(maps.Keys(m.running))).Draw(t, "bundle")]
}

// ready calls Ready and holds all it says against the model.
func (m *model) ready(t *rapid.T) {
	r, err := m.task.Ready(m.now)
	if err != nil {
		t.Fatal(err)
	}
	m.credited += r.Consumed
	if m.credited != m.earned {
		t.Fatalf("credit for %d bytes in all, committed are %d", m.credited, m.earned)
	}
	for _, b := range r.Start {
		m.started(t, b)
	}
	if len(m.running) > m.cfg.InFlight {
		t.Fatalf("%d bundles run, of at most %d", len(m.running), m.cfg.InFlight)
	}
	mayStart := !m.blocked && minOf(m.side) == frame.MaxTimestamp
	if !mayStart && len(r.Start) > 0 {
		t.Fatalf("%d bundles started too early", len(r.Start))
	}
	if mayStart && len(m.running) < m.cfg.InFlight && m.startable() {
		t.Fatal("a free task lets work wait")
	}
	m.checkWatermark(t, r)
	if want := m.wake(); !r.Wake.Equal(want) {
		t.Fatalf("wake at %v, want %v", r.Wake, want)
	}
	if r.Done && (m.done || len(m.open) > 0 || m.output < frame.MaxTimestamp || m.credited != m.received) {
		t.Fatalf("done: before %v, %d elements open, output at %d, credit for %d bytes of %d", m.done, len(m.open), m.output, m.credited, m.received)
	}
	m.done = m.done || r.Done
	if !m.done && m.output == frame.MaxTimestamp {
		t.Fatal("at the end of time, but not done")
	}
}

func (m *model) started(t *rapid.T, b *Bundle) {
	ids := numbers(b.Frames)
	if b.Elements != len(ids) || len(ids) == 0 {
		t.Fatalf("bundle %d has %d elements and says %d", b.ID, len(ids), b.Elements)
	}
	if m.running[b.ID] != nil {
		t.Fatalf("bundle %d runs already", b.ID)
	}
	m.running[b.ID] = b
	m.attempts[b.ID]++
	if b.Attempt != m.attempts[b.ID] {
		t.Fatalf("bundle %d: attempt %d, want %d", b.ID, b.Attempt, m.attempts[b.ID])
	}
	if again, ok := m.failed[b.ID]; ok {
		if string(again) != string(join(b.Frames)) {
			t.Fatalf("bundle %d has other input than at its first attempt", b.ID)
		}
		delete(m.failed, b.ID)
		return
	}
	if b.Attempt != 1 {
		t.Fatalf("bundle %d is tried again but did not fail", b.ID)
	}
	if len(m.failed) > 0 {
		t.Fatalf("bundle %d is new, while failed ones wait", b.ID)
	}
	m.take(t, b, ids)
}

// take moves elements to a new bundle: due residuals in any order, or the front of the inbox.
func (m *model) take(t *rapid.T, b *Bundle, ids []uint32) {
	residual := m.open[ids[0]].residual
	for i, id := range ids {
		e := m.open[id]
		switch {
		case e == nil || e.bundle != 0:
			t.Fatalf("element %d is committed or in a bundle, and started in bundle %d", id, b.ID)
		case e.residual != residual:
			t.Fatalf("bundle %d mixes residuals and input", b.ID)
		case residual && e.due.After(m.now):
			t.Fatalf("residual %d is due at %v", id, e.due)
		case !residual && m.inbox[i] != id:
			t.Fatalf("bundle %d: element %d, want %d", b.ID, id, m.inbox[i])
		}
		e.bundle = b.ID
	}
	if len(ids) > m.cfg.Limits.Elements {
		t.Fatalf("bundle %d has %d elements, of at most %d", b.ID, len(ids), m.cfg.Limits.Elements)
	}
	if residual {
		return
	}
	m.inbox = m.inbox[len(ids):]
	size := len(ids) * elementSize
	if last := b.Frames[len(b.Frames)-1].Bytes(); b.Bytes != size || size-last >= m.cfg.Limits.Bytes {
		t.Fatalf("bundle %d: %d bytes, says %d; %d without the last frame, which is full at %d", b.ID, size, b.Bytes, size-last, m.cfg.Limits.Bytes)
	}
}

func (m *model) startable() bool {
	if len(m.inbox) > 0 || len(m.failed) > 0 {
		return true
	}
	for _, e := range m.open {
		if e.residual && e.bundle == 0 && !e.due.After(m.now) {
			return true
		}
	}
	return false
}

func (m *model) checkWatermark(t *rapid.T, r Ready) {
	input := min(minOf(m.main), minOf(m.side))
	for _, e := range m.open {
		if !e.residual {
			input = min(input, e.low)
		}
	}
	m.input = max(m.input, input)
	want := m.input
	for _, e := range m.open {
		want = min(want, frame.MaxTimestamp-1)
		if e.residual {
			want = min(want, e.hold)
		}
	}
	if r.Advanced != (want > m.output) {
		t.Fatalf("advanced: %v, from %d; it should be at %d", r.Advanced, m.output, want)
	}
	if r.Advanced && r.Watermark != want {
		t.Fatalf("watermark %d, want %d", r.Watermark, want)
	}
	m.output = max(m.output, want)
}

func (m *model) wake() (at time.Time) {
	for _, e := range m.open {
		if e.residual && e.bundle == 0 && e.due.After(m.now) && (at.IsZero() || e.due.Before(at)) {
			at = e.due
		}
	}
	return at
}

func minOf(channels []int64) int64 {
	return slices.Min(append([]int64{frame.MaxTimestamp}, channels...))
}

func join(frames []frame.Frame) (data []byte) {
	for _, f := range frames {
		data = append(data, f.Data...)
	}
	return data
}

// Whatever happens in whatever order, a task does what the model says; and when
// its input has ended and its bundles succeed, it comes to an end.
func TestTaskAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newModel(t)
		alive := func(f func(*rapid.T)) func(*rapid.T) {
			return func(t *rapid.T) {
				if !m.dead {
					f(t)
				}
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"frame":          alive(m.frame),
			"another frame":  alive(m.frame),
			"watermark":      alive(func(t *rapid.T) { m.watermark(t, m.main, m.task.Watermark) }),
			"side watermark": alive(func(t *rapid.T) { m.watermark(t, m.side, m.task.SideWatermark) }),
			"succeed":        alive(m.succeed),
			"fail":           alive(m.fail),
			"time passes":    alive(func(*rapid.T) { m.now = m.now.Add(time.Second) }),
			"block": alive(func(t *rapid.T) {
				m.blocked = rapid.Bool().Draw(t, "blocked")
				m.task.Block(m.blocked)
			}),
			"ready": alive(m.ready),
		})
		if !m.dead {
			m.finish(t)
		}
	})
}

// finish ends the input and lets everything succeed.
func (m *model) finish(t *rapid.T) {
	for i := range m.main {
		m.main[i] = frame.MaxTimestamp
		m.task.Watermark(i, frame.MaxTimestamp)
	}
	for i := range m.side {
		m.side[i] = frame.MaxTimestamp
		m.task.SideWatermark(i, frame.MaxTimestamp)
	}
	m.blocked = false
	m.task.Block(false)
	if len(m.open) > 0 && m.done {
		t.Fatal("done with elements left")
	}
	for steps := len(m.open) + 1; !m.done; steps-- {
		if steps < 0 {
			t.Fatalf("no end, %d elements open", len(m.open))
		}
		m.now = m.now.Add(5 * time.Second)
		m.ready(t)
		for _, b := range m.running {
			for _, id := range numbers(b.Frames) {
				if !m.open[id].residual {
					m.earned += elementSize
				}
				delete(m.open, id)
			}
			m.task.Succeeded(b.ID, Result{}, m.now)
		}
		clear(m.running)
	}
	if r, err := m.task.Ready(m.now.Add(time.Hour)); err != nil || r.Done || r.Advanced || len(r.Start) > 0 || r.Consumed > 0 {
		t.Fatalf("after the end: %+v, %v", r, err)
	}
}
