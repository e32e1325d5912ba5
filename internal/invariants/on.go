//go:build invariants

package invariants

import "fmt"

// Enabled reports whether this build checks invariants.
const Enabled = true

// Check panics if cond is false. Every build evaluates the arguments, so guard
// calls on hot paths with if Enabled.
func Check(cond bool, format string, args ...any) {
	if !cond {
		panic("invariant violated: " + fmt.Sprintf(format, args...))
	}
}

// Poison overwrites p. The owner that takes p back calls it.
func Poison(p []byte) {
	const pattern = "\xde\xadpoison!" // 9 bytes, so that no aligned word looks like a counter or zero
	for n := 0; n < len(p); {
		n += copy(p[n:], pattern)
	}
}
