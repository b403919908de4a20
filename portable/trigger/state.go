package trigger

import (
	"encoding/binary"
	"math"

	"github.com/lintelrun/lintel/internal/fault"
)

// version is the first byte of an encoded state: the words of finished bits as uvarints,
// then of each count or target, in order, a uvarint. A target is 0 where it has not begun,
// else 1 more than its zigzag.
const version = 1

// Append appends the encoding of s, which delimits itself. It is state format.
func (m *Machine) Append(dst []byte, s State) []byte {
	dst = append(dst, version)
	if s == nil {
		return dst
	}
	for _, word := range s[:m.words] {
		dst = binary.AppendUvarint(dst, uint64(word))
	}
	for i := range m.nodes {
		switch n := &m.nodes[i]; n.kind {
		case afterCount:
			dst = binary.AppendUvarint(dst, uint64(s[n.slot]))
		case afterDelay:
			var v uint64
			if t := s[n.slot]; t != noTarget {
				v = uint64(t<<1^t>>63) + 1
			}
			dst = binary.AppendUvarint(dst, v)
		}
	}
	return dst
}

// Decode decodes the state at the start of b and returns its length in bytes. It returns a
// fault.Corruption if there is none of this trigger.
func (m *Machine) Decode(b []byte) (State, int, error) {
	if len(b) == 0 || b[0] != version {
		return nil, 0, fault.New(fault.Corruption, "trigger: not a state of version %d: %x", version, b[:min(len(b), 16)])
	}
	s := m.New()
	if s == nil {
		return nil, 1, nil
	}
	at, ok := 1, true
	next := func() uint64 {
		v, n := binary.Uvarint(b[at:])
		if n <= 0 || n > 1 && b[at+n-1] == 0 {
			ok = false
			return 0
		}
		at += n
		return v
	}
	for i := range s[:m.words] {
		s[i] = int64(next())
	}
	if extra := uint(len(m.nodes) % 64); extra != 0 && uint64(s[m.words-1])>>extra != 0 {
		ok = false
	}
	for i := range m.nodes {
		n := &m.nodes[i]
		if !ok || n.kind != afterCount && n.kind != afterDelay {
			continue
		}
		switch v := next(); {
		case n.kind == afterCount:
			s[n.slot], ok = int64(v), ok && v <= math.MaxInt64
		case v > 0:
			s[n.slot] = int64((v-1)>>1) ^ -int64((v-1)&1)
			ok = ok && s[n.slot] != noTarget
		}
	}
	if !ok {
		return nil, 0, fault.New(fault.Corruption, "trigger: not a state of a trigger of %d parts: %x", len(m.nodes), b[:min(len(b), 32)])
	}
	return s, at, nil
}
