package panes

import (
	"bytes"
	"encoding/binary"
	"iter"
	"math"
	"slices"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/statebackend"
)

// store keeps what is not in memory. Of each unit that it has there are
//
//   - the cell "panes", with all but the values (layout.go),
//   - cells "values", by number, with values one after the other,
//   - an expiry at the time of the event that is next to come, whose value is what the
//     unit holds, and a timer of processing time where a trigger waits for that.
//
// The last two lead to units that are not in memory. Of those that are they may be out of
// date, as everything is until the unit is written.
type store struct {
	cfg    *Config
	batch  statebackend.Batch    // changes that are not yet committed, without timers
	timers *statebackend.Overlay // changes to timers
	timed  bool                  // there are some
	key    []byte                // scratch

	units  int // in the store and not in memory
	events bounds
	clocks bounds
}

// The states of a unit.
const (
	statePanes  = "panes"
	stateValues = "values"
)

func newStore(cfg *Config) store {
	return store{
		cfg:    cfg,
		timers: statebackend.NewOverlay(cfg.Store),
		events: newBounds(cfg.FirstGroup, cfg.EndGroup),
		clocks: newBounds(cfg.FirstGroup, cfg.EndGroup),
	}
}

// open finds out what the store has.
func (s *store) open(holds *multiset) error {
	for g := s.cfg.FirstGroup; g < s.cfg.EndGroup; g++ {
		err := s.scanEvents(g, func(e statebackend.Expiry, hold int64) bool {
			s.events.lower(g, e.At)
			s.units++
			holds.add(hold)
			return true
		})
		if err == nil {
			err = s.scanClocks(g, func(t statebackend.Timer) bool {
				s.clocks.lower(g, t.Fire)
				return false
			})
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *store) scope(group int) statebackend.Scope {
	return statebackend.Scope{Group: uint16(group), Transform: s.cfg.Scope}
}

// scanEvents visits the expiries of a key group in order of time.
func (s *store) scanEvents(group int, visit func(e statebackend.Expiry, hold int64) bool) error {
	scope := s.scope(group)
	from, to := scope.ExpiryRange(math.MinInt64, math.MaxInt64)
	var bad error
	err := s.cfg.Store.Scan(from, to, func(key, value []byte) bool {
		var e statebackend.Expiry
		var hold int64
		if e, bad = statebackend.DecodeExpiry(key); bad != nil {
			return false
		}
		if len(value) != 8 {
			bad = fault.New(fault.Corruption, "panes: what a key holds takes %d bytes, not 8", len(value))
			return false
		}
		hold = int64(binary.BigEndian.Uint64(value))
		return visit(e, hold)
	})
	if err == nil {
		err = bad
	}
	return err
}

// scanClocks visits the timers of a key group in order of time.
func (s *store) scanClocks(group int, visit func(t statebackend.Timer) bool) error {
	return statebackend.DueTimers(s.cfg.Store, s.scope(group), statebackend.ProcessingTime, math.MinInt64, math.MaxInt64, visit)
}

func (s *store) cell(u *unit, state string) statebackend.Cell {
	return statebackend.Cell{Scope: s.scope(int(u.group)), Key: u.key, Window: u.window, State: state}
}

func (s *store) panesKey(u *unit) []byte {
	c := s.cell(u, statePanes)
	s.key = c.AppendKey(s.key[:0])
	return s.key
}

func (s *store) valuesKey(u *unit, number uint64) []byte {
	c := s.cell(u, stateValues)
	s.key = binary.AppendUvarint(c.AppendKey(s.key[:0]), number)
	return s.key
}

func (s *store) expiryKey(u *unit, at int64) []byte {
	e := statebackend.Expiry{Scope: s.scope(int(u.group)), At: at, Window: u.window, Key: u.key}
	s.key = e.AppendKey(s.key[:0])
	return s.key
}

func (s *store) timer(u *unit, at int64) statebackend.Timer {
	return statebackend.Timer{Key: u.key, Window: u.window, Domain: statebackend.ProcessingTime, Fire: at, Hold: at}
}

// commit makes all changes.
func (s *store) commit() error {
	if s.timed {
		if err := s.cfg.Store.Commit(s.timers.Batch()); err != nil {
			return err
		}
		s.timed = false
		s.timers.Reset(s.cfg.Store)
	}
	if s.batch.Len() == 0 {
		return nil
	}
	err := s.cfg.Store.Commit(&s.batch)
	s.batch.Reset()
	return err
}

// load reads a unit, all but its values, if the store has it.
func (s *store) load(u *unit, p *Panes) (bool, error) {
	if err := s.commit(); err != nil { // it may have been removed
		return false, err
	}
	value, err := s.cfg.Store.Get(s.panesKey(u))
	if err != nil || value == nil {
		return false, err
	}
	if err := p.decode(value, u); err != nil {
		return false, err
	}
	s.units--
	return true, nil
}

// pages yields the values of a window, which are good until the next.
func (s *store) pages(u *unit, w *window) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		if len(w.cells) > 0 {
			if err := s.commit(); err != nil {
				yield(nil, err)
				return
			}
		}
		for _, number := range w.cells {
			page, err := s.cfg.Store.Get(s.valuesKey(u, number))
			if err == nil && page == nil {
				err = fault.New(fault.Corruption, "panes: the values %d of key %.32x are missing", number, u.key)
			}
			if !yield(page, err) || err != nil {
				return
			}
		}
		if len(w.values) > 0 {
			yield(w.values, nil)
		}
	}
}

func (s *store) deleteValues(u *unit, number uint64) { s.batch.Delete(s.valuesKey(u, number)) }

// remove removes a unit without windows.
func (s *store) remove(u *unit) error {
	if !u.stored {
		return nil
	}
	s.batch.Delete(s.panesKey(u))
	if u.wakeAt != none {
		s.batch.Delete(s.expiryKey(u, u.wakeAt))
	}
	return s.setClock(u, none)
}

// setClock says when the trigger of u is to be asked.
func (s *store) setClock(u *unit, at int64) error {
	if at == u.clockAt {
		return nil
	}
	var err error
	if at == none {
		_, _, err = statebackend.ClearTimer(s.timers, s.scope(int(u.group)), s.timer(u, 0))
	} else {
		_, _, err = statebackend.SetTimer(s.timers, s.scope(int(u.group)), s.timer(u, at))
		s.clocks.lower(int(u.group), at)
	}
	u.clockAt, s.timed = at, true
	return err
}

// cellBytes is from how many bytes on a cell of values is full.
const cellBytes = 512 << 10

// writeValues moves the values of a window from memory, whose room it keeps, to the store. The
// caller commits.
func (p *Panes) writeValues(u *unit, w *window) {
	if n := int64(len(w.values)); n > 0 {
		if len(w.cells) == 0 || w.last >= cellBytes {
			w.cells, w.last = append(w.cells, u.next), 0
			u.next++
		}
		p.store.batch.Append(p.store.valuesKey(u, w.cells[len(w.cells)-1]), w.values)
		w.inside, w.last = w.inside+n, w.last+n
		w.values = w.values[:0]
	}
}

// write writes a unit; its values are then in the store only. The caller commits.
func (p *Panes) write(u *unit) error {
	if u.changed < 0 {
		return nil
	}
	s := &p.store
	for _, w := range u.windows {
		p.writeValues(u, w)
		p.grow(u, -int64(cap(w.values)))
		w.values = nil
	}
	if hold := p.holds.kept(u.hold); u.wake != u.wakeAt || hold != u.holdAt {
		if u.wakeAt != none && u.wakeAt != u.wake {
			s.batch.Delete(s.expiryKey(u, u.wakeAt))
		}
		u.wakeAt, u.holdAt = u.wake, hold
		var value [8]byte
		binary.BigEndian.PutUint64(value[:], uint64(hold))
		s.batch.Set(s.expiryKey(u, u.wake), value[:])
		s.events.lower(int(u.group), u.wake)
	}
	if err := s.setClock(u, u.clock); err != nil {
		return err
	}
	u.stored = true
	p.unchange(u)
	s.batch.Set(s.panesKey(u), p.encode(u))
	return nil
}

// trim evicts units until what is in memory is within its limit.
func (p *Panes) trim() error {
	const large = 1 << 20
	if limit := p.cfg.MemoryBytes; p.stats.MemoryBytes > limit {
		for p.stats.MemoryBytes > limit-limit/8 && len(p.ring) > 0 {
			p.hand %= len(p.ring)
			u := p.ring[p.hand]
			if u.used {
				u.used = false
				p.hand++
				continue
			}
			if err := p.evict(u); err != nil {
				return err
			}
			if p.store.batch.Bytes() > large {
				if err := p.store.commit(); err != nil {
					return err
				}
			}
		}
		return p.store.commit()
	}
	if p.store.batch.Bytes() > large {
		return p.store.commit()
	}
	return nil
}

func (p *Panes) evict(u *unit) error {
	if err := p.write(u); err != nil {
		return err
	}
	p.leave(u)
	p.holds.add(u.holdAt)
	p.store.units++
	p.stats.Evictions++
	return nil
}

// loadDue brings units to memory for which something is due; more is false if there are none.
func (p *Panes) loadDue() (more bool, err error) {
	s := &p.store
	if group, ok := s.events.due(p.watermark); ok {
		return true, p.loadEvents(group)
	}
	if group, ok := s.clocks.due(p.now + 1); ok {
		return true, p.loadClocks(group)
	}
	return false, nil
}

// atOnce is how many units are loaded before what is due in them is done.
const atOnce = 64

func (p *Panes) loadEvents(group int) error {
	s := &p.store
	if err := s.commit(); err != nil {
		return err
	}
	var due []statebackend.Expiry
	next := int64(none)
	err := s.scanEvents(group, func(e statebackend.Expiry, _ int64) bool {
		if len(due) == atOnce || e.At >= p.watermark {
			next = e.At
			return false
		}
		e.Key, e.Window = bytes.Clone(e.Key), bytes.Clone(e.Window)
		due = append(due, e)
		return true
	})
	if err != nil {
		return err
	}
	s.events.set(group, next)
	units := make([]*unit, len(due))
	for i, e := range due {
		if units[i], err = p.find(e.Key, e.Window); err != nil {
			return err
		}
	}
	for i, e := range due {
		u := units[i]
		if u.wakeAt != e.At {
			return fault.New(fault.Corruption, "panes: key %.32x is found under %d and knows %d", u.key, e.At, u.wakeAt)
		}
		s.batch.Delete(s.expiryKey(u, e.At))
		u.wakeAt, u.holdAt = none, none
		p.change(u)
	}
	return nil
}

func (p *Panes) loadClocks(group int) error {
	s := &p.store
	if err := s.commit(); err != nil {
		return err
	}
	var due []statebackend.Timer
	next := int64(none)
	err := s.scanClocks(group, func(t statebackend.Timer) bool {
		if len(due) == atOnce || t.Fire > p.now {
			next = t.Fire
			return false
		}
		t.Key, t.Window = bytes.Clone(t.Key), bytes.Clone(t.Window)
		due = append(due, t)
		return true
	})
	if err != nil {
		return err
	}
	s.clocks.set(group, next)
	units := make([]*unit, len(due))
	for i, t := range due {
		if units[i], err = p.find(t.Key, t.Window); err != nil {
			return err
		}
	}
	for i, t := range due {
		u := units[i]
		if u.clockAt != t.Fire {
			return fault.New(fault.Corruption, "panes: key %.32x is found under %d and knows %d", u.key, t.Fire, u.clockAt)
		}
		p.change(u)
		if err := s.setClock(u, none); err != nil {
			return err
		}
	}
	return nil
}

// bounds are the least times of an index, one for each key group.
type bounds struct {
	first int
	at    []int64
	min   int64
}

func newBounds(from, to int) bounds {
	return bounds{first: from, at: slices.Repeat([]int64{none}, to-from), min: none}
}

func (b *bounds) lower(group int, t int64) {
	i := group - b.first
	b.at[i], b.min = min(b.at[i], t), min(b.min, t)
}

func (b *bounds) set(group int, t int64) {
	b.at[group-b.first] = t
	b.min = slices.Min(b.at)
}

func (b *bounds) least() int64 { return b.min }

// due returns the key group with the least time, if that is before t.
func (b *bounds) due(t int64) (group int, ok bool) {
	if b.min >= t {
		return 0, false
	}
	return b.first + slices.Index(b.at, b.min), true
}
