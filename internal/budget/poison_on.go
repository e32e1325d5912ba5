//go:build invariants

package budget

// poison overwrites a released buffer, so that a reader that still uses it sees
// wrong bytes at once instead of stale ones.
func poison(m []byte) {
	for i := range m {
		m[i] = 0xdb
	}
}
