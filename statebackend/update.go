package statebackend

import "slices"

// Update is what becomes of the records of a transform in an updated pipeline.
type Update struct {
	// Was and Name are the transform's names in the image and in the store that is restored.
	Was, Name string
	// Dropped are the states and timer families of which nothing is taken.
	Dropped []string
}

// apply returns the key of a record in the store that is restored, and false if it is dropped. Keys that are none
// of the transform's stay as they are.
func (u *Update) apply(key []byte) (now []byte, keep bool) {
	d := decoder{rest: key}
	head := d.take(4)
	name := d.part()
	if d.bad || head[0] != layoutKeyed || string(name) != u.Was {
		return key, true
	}
	if len(u.Dropped) > 0 && slices.Contains(u.Dropped, ownerOf(head[3], d)) {
		return nil, false
	}
	if u.Name == u.Was {
		return key, true
	}
	now = append(make([]byte, 0, len(key)+len(u.Name)), head...)
	return append(appendString(now, u.Name), d.rest...), true
}

// ownerOf returns the state or timer family that a record of a kind belongs to, "" if none; d is behind its transform.
func ownerOf(kind byte, d decoder) string {
	switch kind {
	case kindEventTimer, kindClockTimer, kindHold:
		d.int64()
	case kindCell, kindTimerLookup:
	default:
		return ""
	}
	d.part() // the key
	d.part() // the window
	return string(d.part())
}
