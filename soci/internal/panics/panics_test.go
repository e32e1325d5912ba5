package panics

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
)

func TestGuard(t *testing.T) {
	if err := Guard(func() {}); err != nil {
		t.Error(err)
	}
	var none []int
	err := Guard(func() { none[len(none)] = 1 })
	var e *Error
	if !errors.Is(err, Err) || !errors.As(err, &e) || !strings.Contains(string(e.Stack), "TestGuard") || !strings.Contains(err.Error(), "index out of range") {
		t.Error(err)
	}
	if err := Guard(func() { panic(io.ErrNoProgress) }); !errors.Is(err, io.ErrNoProgress) {
		t.Error(err)
	}
}

func ExampleGuard() {
	var out []byte
	err := Guard(func() { out = decode("x") })
	fmt.Println(out, err)
	// Output: [] internal error: no decoder (please report it)
}

func decode(string) []byte { panic("no decoder") }
