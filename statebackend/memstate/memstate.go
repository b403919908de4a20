// Package memstate keeps state in memory.
package memstate

import "github.com/lintelrun/lintel/statebackend"

// New returns a backend whose stores live in memory until they are closed.
func New() statebackend.Backend { panic("not yet") }
