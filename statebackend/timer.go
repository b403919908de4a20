package statebackend

// Domain is the time that a timer waits for.
type Domain uint8

// The time domains (org.apache.beam.model.pipeline.v1.TimeDomain).
const (
	EventTime Domain = iota + 1
	ProcessingTime
)

// Timer is a set timer. There is one at most for each Key, Window, Family and Tag of a
// transform.
type Timer struct {
	Key, Window []byte // as the SDK encoded them (nested)
	Family, Tag string // the family's id in the ParDoPayload; the tag of dynamic timers
	Domain      Domain // that of the family
	Fire, Hold  int64  // ms; Hold is the timer's output timestamp
	Pane        []byte // encoded
}

// SetTimer sets t in scope s. If a timer of the same key, window, family and tag was set,
// it is replaced and returned, without its Pane, for the caller to release its hold.
func SetTimer(o *Overlay, s Scope, t Timer) (old Timer, replaced bool, err error) { panic("not yet") }

// ClearTimer removes the timer of key, window, family and tag, because it is cleared or
// has fired. It returns it, without its Pane, if there was one.
func ClearTimer(o *Overlay, s Scope, key, window []byte, family, tag string) (old Timer, removed bool, err error) {
	panic("not yet")
}

// DueTimers visits the timers in scope s of the domain with Fire < before, in order of
// Fire, then key, window, family and tag.
func DueTimers(r Reader, s Scope, d Domain, before int64, visit func(Timer) (more bool)) error {
	panic("not yet")
}
