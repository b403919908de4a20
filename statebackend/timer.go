package statebackend

import (
	"bytes"
	"cmp"

	"github.com/lintelrun/lintel/internal/fault"
)

// This file is state format: docs/format/state-keys.md.

// Domain is the time that a timer waits for. Its numbers are stored.
type Domain uint8

// The time domains (org.apache.beam.model.pipeline.v1.TimeDomain).
const (
	EventTime      Domain = 1
	ProcessingTime Domain = 2
)

// Timer is a timer that is set. There is at most one for each Key, Window, Family and Tag
// of a transform; setting another replaces it.
type Timer struct {
	Key, Window []byte // as the SDK encoded them (nested)
	Family, Tag string // the family's id in the ParDoPayload; the tag of a dynamic timer
	Domain      Domain // that of the family
	Fire, Hold  int64  // ms; Hold is the output timestamp, which holds the output watermark
	Pane        []byte // encoded
}

// A timer is two records: one ordered by time, that says all of it, and one by name, to
// find the first. One that holds the watermark back to before it fires has a third, ordered
// by hold; what other timers hold, the first record is in the order of.

// byTime appends the key of the record ordered by time.
func (t *Timer) byTime(dst []byte, s *Scope) []byte {
	return t.appendName(appendInt64(s.appendPrefix(dst, t.Domain.kind()), t.Fire))
}

// byName appends the key of the record to look up.
func (t *Timer) byName(dst []byte, s *Scope) []byte {
	return t.appendName(s.appendPrefix(dst, kindTimerLookup))
}

// byHold appends the key of the record ordered by hold.
func (t *Timer) byHold(dst []byte, s *Scope) []byte {
	return t.appendName(appendInt64(s.appendPrefix(dst, kindHold), t.Hold))
}

// holdsBefore tells whether the timer has a record ordered by hold.
func (t *Timer) holdsBefore() bool { return t.Domain == ProcessingTime || t.Hold < t.Fire }

func (t *Timer) appendName(dst []byte) []byte {
	return appendString(appendString(appendPart(appendPart(dst, t.Key), t.Window), t.Family), t.Tag)
}

// kind returns the kind of records of timers of the domain.
func (d Domain) kind() byte {
	if d == ProcessingTime {
		return kindClockTimer
	}
	return kindEventTimer
}

// SetTimer sets t in scope s. The timer that it replaces, if there is one, is returned,
// for the caller to release its hold. To set a timer again as it is changes nothing.
func SetTimer(o *Overlay, s Scope, t Timer) (old Timer, replaced bool, err error) {
	if t.Domain != EventTime && t.Domain != ProcessingTime {
		return Timer{}, false, fault.New(fault.Invalid, "statebackend: timer family %q of %s has time domain %d", t.Family, s.Transform, t.Domain)
	}
	o.name = t.byName(o.name[:0], &s)
	old, replaced, err = find(o, t)
	if err != nil {
		return Timer{}, false, err
	}
	if replaced {
		if old.Domain == t.Domain && old.Fire == t.Fire && old.Hold == t.Hold && bytes.Equal(old.Pane, t.Pane) {
			return old, true, nil
		}
		old.removeOrdered(o, &s)
	}
	o.ordered = t.byTime(o.ordered[:0], &s)
	value := append(appendInt64(o.content[:0], t.Hold), t.Pane...)
	o.Set(o.ordered, value)
	if t.holdsBefore() {
		o.ordered = t.byHold(o.ordered[:0], &s)
		o.Set(o.ordered, nil)
	}
	o.content = t.found(value[:0])
	o.Set(o.name, o.content)
	return old, replaced, nil
}

// PutTimer adds the records of t to b, of which s has none of its Key, Window, Family and Tag.
func PutTimer(b *Batch, s *Scope, t *Timer) {
	key := t.byTime(make([]byte, 0, 128), s)
	value := append(appendInt64(make([]byte, 0, 32), t.Hold), t.Pane...)
	b.Set(key, value)
	if t.holdsBefore() {
		key = t.byHold(key[:0], s)
		b.Set(key, nil)
	}
	b.Set(t.byName(key[:0], s), t.found(value[:0]))
}

// RemoveTimer removes t, which s has as it is, by the changes of a Batch or Overlay.
func RemoveTimer(b interface{ Delete(key []byte) }, s *Scope, t *Timer) {
	key := t.byTime(make([]byte, 0, 128), s)
	b.Delete(key)
	if t.holdsBefore() {
		key = t.byHold(key[:0], s)
		b.Delete(key)
	}
	b.Delete(t.byName(key[:0], s))
}

// ClearTimer removes the timer with the Key, Window, Family and Tag of t, because it is
// cleared or is firing. It is returned, if there was one.
func ClearTimer(o *Overlay, s Scope, t Timer) (old Timer, removed bool, err error) {
	o.name = t.byName(o.name[:0], &s)
	old, removed, err = find(o, t)
	if removed {
		old.removeOrdered(o, &s)
		o.Delete(o.name)
	}
	return old, removed, err
}

// find returns the timer of t's name, which is in o.name.
func find(o *Overlay, t Timer) (old Timer, found bool, err error) {
	value, err := o.Get(o.name)
	if err != nil || value == nil {
		return Timer{}, false, err
	}
	err = t.setFound(value)
	return t, err == nil, err
}

// removeOrdered removes the records of t that are ordered by time and hold.
func (t *Timer) removeOrdered(o *Overlay, s *Scope) {
	o.ordered = t.byTime(o.ordered[:0], s)
	o.Delete(o.ordered)
	if t.holdsBefore() {
		o.ordered = t.byHold(o.ordered[:0], s)
		o.Delete(o.ordered)
	}
}

// MinHold returns the smallest of the holds of the timers in scope s, where a timer of event
// time holds no later than it fires; ok is false if there are none. None is known to hold before
// from: what was removed there is not searched.
func MinHold(r Reader, s Scope, from int64) (hold int64, ok bool, err error) {
	for _, kind := range []byte{kindEventTimer, kindHold} {
		prefix := s.appendPrefix(nil, kind)
		var bad error
		err := r.Scan(appendInt64(bytes.Clone(prefix), from), PrefixEnd(prefix), func(key, _ []byte) bool {
			d := decoder{rest: key[len(prefix):]}
			if at := d.int64(); d.bad {
				bad = corruptKey("timer", key)
			} else if !ok || at < hold {
				hold, ok = at, true
			}
			return false
		})
		if err = cmp.Or(err, bad); err != nil {
			return 0, false, err
		}
	}
	return hold, ok, nil
}

// found appends the value of the record by name.
func (t *Timer) found(dst []byte) []byte {
	return append(appendInt64(appendInt64(append(dst, byte(t.Domain)), t.Fire), t.Hold), t.Pane...)
}

// setFound sets what the value of a record by name says.
func (t *Timer) setFound(value []byte) error {
	d := decoder{rest: value}
	t.Domain, t.Fire, t.Hold = Domain(d.byte()), d.int64(), d.int64()
	t.Pane = d.rest
	if d.bad || t.Domain != EventTime && t.Domain != ProcessingTime {
		return fault.New(fault.Corruption, "statebackend: not the value of a timer to look up: %x", value[:min(len(value), 32)])
	}
	return nil
}

// DueTimers visits the timers in scope s of domain d with from <= Fire < before, by Fire, then key,
// window, family and tag, whatever their family. What visit is given is valid until it
// returns. Timers set meanwhile are not seen: o is not to be changed by visit.
func DueTimers(r Reader, s Scope, d Domain, from, before int64, visit func(Timer) (more bool)) error {
	prefix := s.appendPrefix(nil, d.kind())
	lo, hi := appendInt64(bytes.Clone(prefix), from), appendInt64(bytes.Clone(prefix), before)
	var bad error
	err := r.Scan(lo, hi, func(key, value []byte) bool {
		t := Timer{Domain: d}
		if bad = t.decode(key, len(prefix), value); bad != nil {
			return false
		}
		return visit(t)
	})
	return cmp.Or(err, bad)
}

// DecodeTimer takes apart the record ordered by time of a timer. The results may share
// memory with key and value. It returns a fault.Corruption if they are not such a record.
func DecodeTimer(key, value []byte) (Scope, Timer, error) {
	t := Timer{Domain: EventTime}
	if len(key) > 3 && key[3] == kindClockTimer {
		t.Domain = ProcessingTime
	}
	d := decoder{rest: key}
	s := d.scope(t.Domain.kind())
	if d.bad {
		return Scope{}, Timer{}, corruptKey("timer", key)
	}
	if err := t.decode(key, len(key)-len(d.rest), value); err != nil {
		return Scope{}, Timer{}, err
	}
	return s, t, nil
}

// decode sets what the record ordered by time says behind its scope, which ends at byte from.
func (t *Timer) decode(key []byte, from int, value []byte) error {
	d := decoder{rest: key[from:]}
	t.Fire = d.int64()
	t.setName(&d)
	if d.bad || len(d.rest) > 0 {
		return corruptKey("timer", key)
	}
	v := decoder{rest: value}
	if t.Hold, t.Pane = v.int64(), v.rest; v.bad {
		return fault.New(fault.Corruption, "statebackend: not the value of a timer: %x", value)
	}
	return nil
}

func (t *Timer) setName(d *decoder) {
	t.Key, t.Window, t.Family, t.Tag = d.part(), d.part(), string(d.part()), string(d.part())
}

// RemoveWindow removes all there is of the key and window of e: cells, timers and e itself.
// The timers are given to release, for it to release their holds.
func RemoveWindow(o *Overlay, e Expiry, release func(Timer)) error {
	o.DeleteRange(e.WindowRange(e.Key, e.Window))
	o.Delete(e.AppendKey(nil))

	from := appendPart(appendPart(e.appendPrefix(nil, kindTimerLookup), e.Key), e.Window)
	to := PrefixEnd(from)
	var timers []Timer
	var bad error
	err := o.Scan(from, to, func(key, value []byte) bool {
		d := decoder{rest: bytes.Clone(key)}
		d.scope(kindTimerLookup)
		var t Timer
		if t.setName(&d); d.bad || len(d.rest) > 0 {
			bad = corruptKey("timer to look up", key)
		} else {
			bad = t.setFound(value)
		}
		timers = append(timers, t)
		return bad == nil
	})
	if err == nil {
		err = bad
	}
	if err != nil {
		return err
	}
	for _, t := range timers {
		t.removeOrdered(o, &e.Scope)
		release(t)
	}
	o.DeleteRange(from, to)
	return nil
}
