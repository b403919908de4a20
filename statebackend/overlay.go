package statebackend

// Overlay is what one bundle sees: a Reader's state and its own changes to it, which come
// back as a Batch once the bundle succeeds, or are forgotten. It belongs to one goroutine
// at a time.
//
// The reader must not change while the Overlay is used: it is a Snapshot, or a Store
// whose owner does not commit meanwhile.
type Overlay struct {
	base Reader
}

// NewOverlay returns an Overlay over base without changes.
func NewOverlay(base Reader) *Overlay { return &Overlay{base: base} }

// Reset forgets all changes and puts the Overlay over base.
func (o *Overlay) Reset(base Reader) { panic("not yet") }

// Get returns the value of key as changed, nil if it is absent. It must not be changed and
// stays valid, and the same, until Reset or until base changes.
func (o *Overlay) Get(key []byte) ([]byte, error) { panic("not yet") }

// Scan visits the keys in [from, to) as changed, as Reader's does. visit must not change
// the Overlay.
func (o *Overlay) Scan(from, to []byte, visit func(key, value []byte) (more bool)) error {
	panic("not yet")
}

// Set gives key the value. Both are copied.
func (o *Overlay) Set(key, value []byte) { panic("not yet") }

// Append adds value at the end of what key has, without reading it. Both are copied.
func (o *Overlay) Append(key, value []byte) { panic("not yet") }

// Delete removes key.
func (o *Overlay) Delete(key []byte) { panic("not yet") }

// DeleteRange removes all keys in [from, to); a nil to is no end.
func (o *Overlay) DeleteRange(from, to []byte) { panic("not yet") }

// Bytes returns about how many bytes of memory the changes take.
func (o *Overlay) Bytes() int { panic("not yet") }

// Batch returns the changes; the caller may add its own to it. It belongs to the Overlay:
// it is valid until the next call of Batch or Reset.
func (o *Overlay) Batch() *Batch { panic("not yet") }
