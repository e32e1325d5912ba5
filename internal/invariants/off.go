//go:build !invariants

package invariants

// Enabled reports whether this build checks invariants.
const Enabled = false

// Check does nothing in this build. Every build evaluates the arguments, so guard
// calls on hot paths with if Enabled.
func Check(cond bool, format string, args ...any) {}

// CloseOnce checks that a value is closed exactly once and not used afterwards. In
// this build it occupies no memory and checks nothing.
type CloseOnce struct{}

// Close does nothing in this build.
func (c *CloseOnce) Close() {}

// AssertOpen does nothing in this build.
func (c *CloseOnce) AssertOpen() {}

// Poison does nothing in this build.
func Poison(p []byte) {}
