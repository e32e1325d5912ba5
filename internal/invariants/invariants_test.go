package invariants_test

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/penstock/penstock/internal/invariants"
)

// panics reports whether f panics.
func panics(f func()) (yes bool) {
	defer func() { yes = recover() != nil }()
	f()
	return false
}

func TestCheck(t *testing.T) {
	if panics(func() { invariants.Check(true, "never") }) {
		t.Error("a true condition panicked")
	}
	if got := panics(func() { invariants.Check(false, "x is %d", 1) }); got != invariants.Enabled {
		t.Errorf("a false condition panicked = %v, want %v", got, invariants.Enabled)
	}
}

func TestPoison(t *testing.T) {
	for _, n := range []int{0, 1, 8, 9, 10, 1000} {
		p := bytes.Repeat([]byte{7}, n)
		invariants.Poison(p)
		changed := n > 0 && !bytes.Contains(p, []byte{7})
		if want := invariants.Enabled && n > 0; changed != want {
			t.Errorf("Poison of %d bytes: changed = %v, want %v", n, changed, want)
		}
	}
}

func Example() {
	off, end := 0, 10
	if invariants.Enabled {
		invariants.Check(off <= end, "off %d > end %d", off, end)
	}
	fmt.Println("holds")
	// Output: holds
}
