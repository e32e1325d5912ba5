//go:build invariants

package invariants

import (
	"fmt"
	"runtime/debug"
	"sync/atomic"
)

// Enabled tells whether this build checks invariants.
const Enabled = true

// Check panics when cond is false. The arguments are evaluated in every build:
// guard calls on hot paths with if Enabled.
func Check(cond bool, format string, args ...any) {
	if !cond {
		panic("invariant violated: " + fmt.Sprintf(format, args...))
	}
}

// CloseOnce checks that something is closed exactly once and not used after.
// The zero value is open.
type CloseOnce struct {
	// first is the stack of the first Close, nil while open. A pointer, so that
	// the second closer can show who came first.
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

// Poison overwrites p, to be called by the owner that takes p back.
func Poison(p []byte) {
	const pattern = "\xde\xadpoison!" // 9 bytes: unaligned, so that it never looks like a counter or zeroes
	for n := 0; n < len(p); {
		n += copy(p[n:], pattern)
	}
}
