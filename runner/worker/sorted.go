package worker

import (
	"fmt"
	"math"

	"github.com/lintelrun/lintel/portable/coders"
	"github.com/lintelrun/lintel/portable/plan"
	"github.com/lintelrun/lintel/runner/frame"
	"github.com/lintelrun/lintel/runner/keygroup"
	"github.com/lintelrun/lintel/statebackend"
)

// sorter keeps the input of a stage that requires it sorted by time
// (ParDoPayload.requires_time_sorted_input) until no earlier element is to come any more.
// The elements lie in the task's store, as the entries of one ordered list a key group,
// which no key of a user has; those of one time stay in the order in which they came.
type sorter struct {
	store    statebackend.Store
	coder    *coders.Windowed
	name     string // of the transform, in the state's keys
	lateness int64
	// heads are the earliest timestamps of the key groups that have elements.
	heads map[uint16]int64
	batch statebackend.Batch
	key   []byte
}

// sortedState is the state's name. It begins as no identifier of an SDK does.
const sortedState = "\x00time-sorted-input"

// newSorter returns a sorter with what the store has of the key groups [groups[0], groups[1]).
func newSorter(spec *plan.StatefulSpec, coder *coders.Windowed, store statebackend.Store, groups [2]int) (*sorter, error) {
	s := &sorter{store: store, coder: coder, name: spec.Name, lateness: spec.Windowing.AllowedLateness, heads: map[uint16]int64{}}
	for g := groups[0]; g < groups[1]; g++ {
		if err := s.findHead(uint16(g)); err != nil {
			return nil, fmt.Errorf("read input that is to be sorted: %w", err)
		}
	}
	return s, nil
}

// findHead reads the earliest timestamp of a key group.
func (s *sorter) findHead(group uint16) error {
	prefix := s.cell(group).AppendKey(nil)
	var bad error
	err := s.store.Scan(prefix, statebackend.PrefixEnd(prefix), func(key, _ []byte) bool {
		var ts int64
		if ts, bad = statebackend.SortKey(key[len(prefix):]); bad == nil {
			s.heads[group] = ts
		}
		return false
	})
	if err == nil {
		err = bad
	}
	return err
}

func (s *sorter) cell(group uint16) *statebackend.Cell {
	return &statebackend.Cell{Scope: statebackend.Scope{Group: group, Transform: s.name}, State: sortedState}
}

// add takes a block of elements, but drops those that come after their time, and says how
// many. It does not retain the block.
func (s *sorter) add(block []byte, watermark int64) (late int64, err error) {
	s.batch.Reset()
	var el coders.Element
	for off := 0; off < len(block); off += el.Size {
		if err := s.coder.Next(block[off:], &el); err != nil {
			return 0, fmt.Errorf("at byte %d: %w", off, err)
		}
		if s.ripe(el.Timestamp, watermark) && watermark < frame.MaxTimestamp {
			late++
			continue
		}
		group := uint16(keygroup.Of(keygroup.Hash(el.Key), keygroup.DefaultMax))
		s.key = s.cell(group).AppendSortKey(s.key[:0], el.Timestamp)
		s.batch.Append(s.key, block[off:off+el.Size])
		if head, ok := s.heads[group]; !ok || el.Timestamp < head {
			s.heads[group] = el.Timestamp
		}
	}
	if err := s.store.Commit(&s.batch); err != nil {
		return 0, fmt.Errorf("keep input that is to be sorted: %w", err)
	}
	return late, nil
}

// ripe tells whether elements of a time have no earlier ones to wait for.
func (s *sorter) ripe(ts, watermark int64) bool {
	return watermark >= frame.MaxTimestamp || ts < watermark-s.lateness
}

// take returns elements of one key group that are ripe, sorted by time, of about size
// bytes; ok is false if there are none.
func (s *sorter) take(watermark int64, size int) (f frame.Frame, ok bool, err error) {
	for group, head := range s.heads {
		if s.ripe(head, watermark) {
			f, err = s.takeOf(group, watermark, size)
			return f, err == nil, err
		}
	}
	return frame.Frame{}, false, nil
}

func (s *sorter) takeOf(group uint16, watermark int64, size int) (frame.Frame, error) {
	prefix := s.cell(group).AppendKey(nil)
	var out frame.Frame
	out.MinTimestamp = s.heads[group]
	s.batch.Reset()
	delete(s.heads, group)
	var bad error
	err := s.store.Scan(prefix, statebackend.PrefixEnd(prefix), func(key, value []byte) bool {
		ts, err := statebackend.SortKey(key[len(prefix):])
		if err != nil {
			bad = err
			return false
		}
		if len(out.Data) >= size || !s.ripe(ts, watermark) {
			s.heads[group] = ts
			return false
		}
		n, _, err := s.coder.Count(value)
		if err != nil {
			bad = err
			return false
		}
		out.Data = append(out.Data, value...)
		out.Elements += n
		s.batch.Delete(key)
		return true
	})
	if err == nil {
		err = bad
	}
	if err == nil {
		err = s.store.Commit(&s.batch)
	}
	if err != nil {
		return frame.Frame{}, fmt.Errorf("sort input by time: %w", err)
	}
	return out, nil
}

// earliest is the least timestamp of all that is kept, MaxInt64 if there is none.
func (s *sorter) earliest() int64 {
	least := int64(math.MaxInt64)
	for _, head := range s.heads {
		least = min(least, head)
	}
	return least
}

// sort keeps a frame of input until its time has come.
func (x *execTask) sort(f frame.Frame) error {
	late, err := x.sorter.add(f.Data, x.core.ChannelWatermark())
	if err != nil {
		return err
	}
	x.e.stats.lateDropped(x.task, late)
	x.noteBuffered()
	x.repay(f.Bytes()) // it lies in the state now
	return nil
}

// unsort passes on what is ripe, as far as the core has use for it.
func (x *execTask) unsort() error {
	if x.sorter == nil {
		return nil
	}
	for x.core.Pending() < 2*x.e.outboxBytes() {
		f, ok, err := x.sorter.take(x.core.ChannelWatermark(), frameBytes)
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		x.prepaid += f.Bytes()
		if err := x.admit(f, frame.MinTimestamp); err != nil { // it holds as it did here
			return err
		}
		x.noteBuffered()
	}
	return nil
}
