//go:build invariants

package invariant

// Enabled reports whether costly checks run; tests are built with the tag "invariants".
const Enabled = true
