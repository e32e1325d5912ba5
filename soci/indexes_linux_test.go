package soci_test

import (
	"os"
	"syscall"
	"testing"
)

// TestIndexFifo checks that a pull does not wait for a fifo in place of an
// index.
func TestIndexFifo(t *testing.T) {
	x := newIndexed(t)
	if err := syscall.Mkfifo(x.file, 0o600); err != nil {
		t.Fatal(err)
	}
	x.pull(t, x.dir)
	if fi, err := os.Lstat(x.file); err != nil || !fi.Mode().IsRegular() {
		t.Errorf("%v, %v", fi, err)
	}
}
