//go:build invariants

package invariants

import (
	"fmt"
	"runtime/debug"
	"sync/atomic"
)

// Enabled reports whether this build checks invariants.
const Enabled = true

// Check panics if cond is false. Every build evaluates the arguments, so guard
// calls on hot paths with if Enabled.
func Check(cond bool, format string, args ...any) {
	if !cond {
		panic("invariant violated: " + fmt.Sprintf(format, args...))
	}
}

// CloseOnce checks that a value is closed exactly once and not used afterwards. The
// zero value is open.
type CloseOnce struct {
	// first is the stack of the first Close, for the message of the second one; nil
	// while open.
	first atomic.Pointer[[]byte]
}

// Close panics, showing the stack of the first call, when called twice.
func (c *CloseOnce) Close() {
	stack := debug.Stack()
	if !c.first.CompareAndSwap(nil, &stack) {
		panic(fmt.Sprintf("invariant violated: closed twice; first close:\n%s", *c.first.Load()))
	}
}

// AssertOpen panics when Close has been called.
func (c *CloseOnce) AssertOpen() {
	if s := c.first.Load(); s != nil {
		panic(fmt.Sprintf("invariant violated: used after close; closed at:\n%s", *s))
	}
}

// Poison overwrites p. The owner that takes p back calls it.
func Poison(p []byte) {
	const pattern = "\xde\xadpoison!" // 9 bytes, so that no aligned word looks like a counter or zero
	for n := 0; n < len(p); {
		n += copy(p[n:], pattern)
	}
}
