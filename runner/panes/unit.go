package panes

import (
	"encoding/binary"
	"math"

	"github.com/lintelrun/lintel/portable/coders"
	"github.com/lintelrun/lintel/portable/trigger"
	"github.com/lintelrun/lintel/runner/keygroup"
)

// unit is what is loaded and evicted together: a key and window or, where windows merge, a
// key with all its windows.
type unit struct {
	id          string // of window and key
	key, window []byte // window is empty where windows merge
	group       uint16
	serial      uint64 // orders units of the same time as they came
	windows     []*window

	wake  int64 // the least watermark to pass for something to happen
	clock int64 // the least processing time at which a trigger is to be asked
	hold  int64 // the least of its windows', as it is in Panes.holds
	event int   // place in Panes.events
	timer int   // place in Panes.clocks, -1 if it is not there

	place int   // in Panes.ring
	bytes int64 // of memory, about
	used  bool  // since eviction last passed
	// changed is the place in Panes.changed, -1 if the store has all of it.
	changed int
	// overdue says that what it waited for came while it was not in memory.
	overdue bool
	record
}

// record is what the store has of a unit.
type record struct {
	stored bool
	next   uint64 // number of the next cell of values
	// The entries of the indices that lead to it; none if there are none. holdAt is what it
	// holds in Panes.holds while it is not in memory.
	wakeAt, clockAt, holdAt int64
}

// window is what a key has in one window.
type window struct {
	window      []byte
	end, expiry int64
	trigger     trigger.State
	seen        bool // it has had elements
	closed      bool // the trigger has finished: what still comes is dropped
	ended       bool // what was due once the watermark had passed its end has been done

	// The pane before.
	fired  bool // there was one
	timing coders.Timing
	index  int64
	onTime int64

	elementHold int64 // of its elements' timestamps, combined
	extraHold   int64 // until it expires

	values []byte   // in memory; those in the store come before
	cells  []uint64 // numbers of the cells of values in the store
	inside int64    // bytes of values in cells
	last   int64    // bytes in the last of cells
	count  int64    // values
	fresh  int64    // elements since the pane before
	merged int64    // bytes of the accumulator that values were merged into last
	queued bool     // in Panes.crowds
}

// wake is the watermark to pass for something to happen.
func (w *window) wake() int64 {
	if w.closed || w.ended {
		return w.expiry
	}
	return min(w.end, w.expiry)
}

// About how many bytes of memory these take.
const (
	unitBytes   = 320
	windowBytes = 240
)

func appendID(dst, key, window []byte) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(window)))
	return append(append(dst, window...), key...)
}

// find returns the unit of a key and window, from memory, the store or new. A new one has no windows.
func (p *Panes) find(key, window []byte) (*unit, error) {
	p.id = appendID(p.id[:0], key, window)
	if u, ok := p.units[string(p.id)]; ok {
		u.used = true
		return u, nil
	}
	u := p.newUnit(key, window)
	if p.store.units == 0 {
		p.enter(u)
		return u, nil
	}
	found, err := p.store.load(u, p)
	if err != nil {
		return nil, err
	}
	if found {
		p.stats.Loads++
		p.holds.remove(u.holdAt)
	}
	u.overdue = found && u.clockAt <= p.now
	p.enter(u)
	return u, nil
}

// newUnit returns a unit without windows; p.id is its id.
func (p *Panes) newUnit(key, window []byte) *unit {
	p.serial++
	u := &unit{
		id: string(p.id), serial: p.serial, wake: none, clock: none, hold: none, timer: -1, changed: -1, used: true,
		record: record{wakeAt: none, clockAt: none, holdAt: none},
		group:  uint16(keygroup.Of(keygroup.Hash(key), p.cfg.KeyGroups)),
	}
	both := []byte(u.id)
	both = both[len(both)-len(key)-len(window):]
	u.window, u.key = both[:len(window):len(window)], both[len(window):]
	return u
}

// enter puts a unit in memory.
func (p *Panes) enter(u *unit) {
	p.units[u.id] = u
	u.place = len(p.ring)
	p.ring = append(p.ring, u)
	p.events.push(u)
	p.grow(u, unitBytes+2*int64(len(u.id)))
	for _, w := range u.windows {
		p.grow(u, windowBytes+int64(cap(w.values)))
	}
	p.settle(u)
}

// leave takes a unit out of memory.
func (p *Panes) leave(u *unit) {
	delete(p.units, u.id)
	last := p.ring[len(p.ring)-1]
	p.ring[u.place], last.place = last, u.place
	p.ring[len(p.ring)-1] = nil
	p.ring = p.ring[:len(p.ring)-1]
	p.unchange(u)
	p.events.remove(u)
	if u.timer >= 0 {
		p.clocks.remove(u)
	}
	p.holds.remove(u.hold)
	u.hold = none
	p.grow(u, -u.bytes)
}

func (p *Panes) grow(u *unit, bytes int64) {
	u.bytes += bytes
	p.stats.MemoryBytes += bytes
}

// addWindow adds a window to a unit that hasn't got it.
func (p *Panes) addWindow(u *unit, encoded []byte, s *span) *window {
	w := &window{
		window: encoded, end: s.end, expiry: s.expiry, trigger: p.machine.New(),
		elementHold: none, extraHold: none, ended: p.watermark > s.end,
	}
	u.windows = append(u.windows, w)
	p.grow(u, windowBytes)
	return w
}

// settle brings up to date what others know of a unit, after something happened to it.
func (p *Panes) settle(u *unit) {
	wake, clock, hold := int64(none), int64(none), int64(none)
	for _, w := range u.windows {
		wake = min(wake, w.wake())
		clock = min(clock, p.machine.WakeUp(w.trigger, p.now))
		hold = min(hold, w.elementHold, w.extraHold)
	}
	if u.overdue {
		clock = math.MinInt64
	}
	if wake != u.wake {
		u.wake = wake
		p.events.fix(u)
	}
	if clock != u.clock {
		u.clock = clock
		switch {
		case u.timer < 0:
			p.clocks.push(u)
		case clock == none:
			p.clocks.remove(u)
		default:
			p.clocks.fix(u)
		}
	}
	if hold != u.hold {
		p.holds.remove(u.hold)
		p.holds.add(hold)
		u.hold = hold
	}
}
