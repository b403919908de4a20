package statebackend

import "iter"

// ChangeKind says what a Change does.
type ChangeKind uint8

// The kinds of changes.
const (
	// Set gives Key the value Value.
	Set ChangeKind = iota
	// Append adds Value at the end of what Key has, which is nothing if it is absent.
	// After an Append the key is present, even if Value is empty.
	Append
	// Delete removes Key, if it is there.
	Delete
	// DeleteRange removes all keys in [Key, Value); a nil Value is no end.
	DeleteRange
)

// Change is one change of a Batch.
type Change struct {
	Kind       ChangeKind
	Key, Value []byte
}

// Batch collects changes to commit together. They take effect in the order of the calls.
// The zero value is empty and ready. It belongs to one goroutine.
type Batch struct {
	bytes   []byte // of all keys and values, one after the other
	changes []change
}

type change struct {
	kind  ChangeKind
	at    int // of the key in bytes; the value follows
	key   int // length
	value int // length, -1 for nil
}

// Set gives key the value. Key and value are copied, as by all methods.
func (b *Batch) Set(key, value []byte) { b.add(Set, key, value, len(value)) }

// Append adds value at the end of what key has.
func (b *Batch) Append(key, value []byte) { b.add(Append, key, value, len(value)) }

// Delete removes key.
func (b *Batch) Delete(key []byte) { b.add(Delete, key, nil, -1) }

// DeleteRange removes all keys in [from, to); a nil to is no end.
func (b *Batch) DeleteRange(from, to []byte) {
	n := len(to)
	if to == nil {
		n = -1
	}
	b.add(DeleteRange, from, to, n)
}

// Add adds a change.
func (b *Batch) Add(c Change) {
	n := len(c.Value)
	if c.Kind == Delete || c.Kind == DeleteRange && c.Value == nil {
		n = -1
	}
	b.add(c.Kind, c.Key, c.Value, n)
}

func (b *Batch) add(kind ChangeKind, key, value []byte, n int) {
	b.changes = append(b.changes, change{kind, len(b.bytes), len(key), n})
	b.bytes = append(append(b.bytes, key...), value...)
}

// Len returns the number of changes.
func (b *Batch) Len() int { return len(b.changes) }

// Bytes returns the length of all keys and values together.
func (b *Batch) Bytes() int { return len(b.bytes) }

// Reset empties the batch and keeps its memory for the next.
func (b *Batch) Reset() { b.bytes, b.changes = b.bytes[:0], b.changes[:0] }

// All yields the changes in order. Their bytes are the batch's own: valid until it is
// changed, and not to be written to.
func (b *Batch) All() iter.Seq[Change] {
	return func(yield func(Change) bool) {
		for _, c := range b.changes {
			value := c.at + c.key
			out := Change{Kind: c.kind, Key: b.bytes[c.at:value:value]}
			if c.value >= 0 {
				out.Value = b.bytes[value : value+c.value : value+c.value]
			}
			if !yield(out) {
				return
			}
		}
	}
}
