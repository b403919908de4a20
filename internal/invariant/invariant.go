// Package invariant holds checks of our own promises. A broken one is a defect
// of Lintel, never of input from outside.
package invariant

import "fmt"

// Check panics with the formatted text if ok is false.
func Check(ok bool, format string, args ...any) {
	if !ok {
		panic("invariant broken: " + fmt.Sprintf(format, args...))
	}
}
