// Package coders compiles Beam coders to layouts that find where an encoded
// value ends, and cuts blocks of windowed values into elements, without
// decoding or allocating. It knows the nested encodings of Beam's standard
// coders (beam_runner_api.proto, StandardCoders); all else must be length prefixed.
package coders

import (
	"errors"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
)

// ErrShort says that the bytes end within a value: more are needed to find its end.
var ErrShort = errors.New("coders: the bytes end within a value")

// Coder is the compiled layout of one coder. It is immutable and safe for concurrent use.
type Coder struct {
	urn        string
	components []*Coder
}

// Compile compiles the coder called id. A coder whose layout is not known is
// a fault.Unsupported that names its id and URN; a missing, cyclic or
// malformed one is a fault.Invalid. What is inside a length prefix is opaque
// and need not be known.
func Compile(id string, components map[string]*pipepb.Coder) (*Coder, error) {
	panic("todo")
}

// Known tells whether the layout of coders with this URN is understood, given
// that those of their components are.
func Known(urn string) bool { panic("todo") }

// URN returns the coder's URN.
func (c *Coder) URN() string { return c.urn }

// Components returns the layouts of the component coders, in the proto's
// order. A length prefix shows none, as its contents are opaque. Callers must
// not change the slice.
func (c *Coder) Components() []*Coder { return c.components }

// Skip returns the length in bytes of the one value in the nested encoding at
// the start of b. It returns ErrShort if b ends within the value and a
// fault.Corruption if no value can begin so.
func (c *Coder) Skip(b []byte) (int, error) { panic("todo") }
