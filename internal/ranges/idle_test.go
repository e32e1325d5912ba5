package ranges_test

import (
	"bytes"
	"testing"
	"testing/synctest"
	"time"

	"github.com/penstock/penstock/internal/budget"
	"github.com/penstock/penstock/internal/ranges"
	"github.com/penstock/penstock/internal/ranges/rangestest"
)

// TestIdleWindowsAreReclaimed opens readers that read in order, stay open, and hold
// the whole budget. A later reader still fetches ahead, with the memory of idle
// readers, and the budget is never exceeded.
func TestIdleWindowsAreReclaimed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &rangestest.Source{Data: rangestest.Random(8*mib, 7), Pin: "etag:1"}
		b := budget.New(4 * mib)
		e, err := ranges.New(ranges.Options{PartBytes: mib, Budget: b})
		if err != nil {
			t.Fatal(err)
		}
		defer e.Close()
		o := e.Object(src, ranges.Spec{Name: "o", Host: "h", Size: int64(len(src.Data)), Pin: "etag:1"})
		p := make([]byte, 128*kib)
		read := func(r *ranges.Reader, reads int) {
			t.Helper()
			for i := range reads {
				off := int64(i * len(p))
				if _, err := r.ReadAt(t.Context(), p, off); err != nil || !bytes.Equal(p, src.Data[off:off+int64(len(p))]) {
					t.Fatalf("read at %d: %v", off, err)
				}
			}
		}
		for range 200 {
			r := o.Reader(ranges.ReaderOptions{})
			defer r.Close()
			read(r, 8)
			synctest.Wait()
		}
		if b.InUse() > b.Limit() || b.Peak() > b.Limit() {
			t.Errorf("%d bytes in use, %d at the peak, of %d: readers must not overdraw", b.InUse(), b.Peak(), b.Limit())
		}
		late := o.Reader(ranges.ReaderOptions{})
		defer late.Close()
		before := len(src.Requests())
		read(late, 32)
		if n := len(src.Requests()) - before; n < 16 {
			t.Errorf("%d requests for 32 reads: no reader was idle for long, so none may lose its window", n)
		}
		time.Sleep(2 * time.Second) // fake time
		later := o.Reader(ranges.ReaderOptions{})
		defer later.Close()
		before = len(src.Requests())
		read(later, 64)
		if n := len(src.Requests()) - before; n > 24 {
			t.Errorf("%d requests for 64 reads in order: the windows of idle readers were not reclaimed", n)
		}
		if b.Peak() > b.Limit() {
			t.Errorf("%d bytes at the peak, of %d", b.Peak(), b.Limit())
		}
		// A reader that lost its window can still read.
		first := o.Reader(ranges.ReaderOptions{})
		defer first.Close()
		read(first, 64)
	})
}
