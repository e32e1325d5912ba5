package ranges_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/penstock/penstock/internal/budget"
	"github.com/penstock/penstock/internal/ranges"
	"github.com/penstock/penstock/internal/ranges/rangestest"
)

func TestRandomReadsFetchRequestedBytes(t *testing.T) {
	src := &rangestest.Source{Data: rangestest.Random(32*mib, 1), Pin: "etag:1"}
	e := newEngine(t, ranges.Options{PartBytes: mib, Hedge: noHedge.Hedge})
	r := e.Object(src, unknown).Reader(ranges.ReaderOptions{})
	defer r.Close()
	rnd := rand.New(rand.NewPCG(1, 2))
	var asked int64
	for range 2000 {
		n := 4*kib + rnd.IntN(124*kib)
		off := rnd.Int64N(int64(len(src.Data) - n))
		p := make([]byte, n)
		if _, err := r.ReadAt(t.Context(), p, off); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(p, src.Data[off:off+int64(n)]) {
			t.Fatalf("bytes at %d differ", off)
		}
		asked += int64(n)
	}
	if sent := src.Sent(); float64(sent) > 1.05*float64(asked) {
		t.Errorf("fetched %d bytes for %d asked: %.3f, want at most 1.05", sent, asked, float64(sent)/float64(asked))
	}
}

func TestSequentialReadsFetchAhead(t *testing.T) {
	src := &rangestest.Source{Data: rangestest.Random(16*mib+7, 2), Pin: "etag:1"}
	e := newEngine(t, ranges.Options{PartBytes: mib, Hedge: noHedge.Hedge})
	r := e.Object(src, unknown).Reader(ranges.ReaderOptions{})
	defer r.Close()
	got := make([]byte, 0, len(src.Data))
	p := make([]byte, 128*kib)
	for {
		n, err := r.ReadAt(t.Context(), p, int64(len(got)))
		got = append(got, p[:n]...)
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(got, src.Data) {
		t.Fatal("bytes differ")
	}
	if src.Sent() != int64(len(src.Data)) {
		t.Errorf("%d bytes fetched of %d", src.Sent(), len(src.Data))
	}
	if n := len(src.Requests()); n > 40 {
		t.Errorf("%d requests for 16 MiB in parts of 1 MiB", n)
	}
}

// The kernel's read-ahead requests arrive from several threads, slightly out of
// order.
func TestReaderOutOfOrderSequential(t *testing.T) {
	src := &rangestest.Source{Data: rangestest.Random(16*mib, 3), Pin: "etag:1"}
	e := newEngine(t, ranges.Options{PartBytes: mib, Hedge: noHedge.Hedge})
	r := e.Object(src, unknown).Reader(ranges.ReaderOptions{})
	defer r.Close()
	const step = 128 * kib
	offs := make([]int64, len(src.Data)/step)
	for i := range offs {
		offs[i] = int64(i) * step
	}
	rnd := rand.New(rand.NewPCG(3, 4))
	for i := 4; i+8 <= len(offs); i += 8 { // in any order within each megabyte
		rnd.Shuffle(8, func(a, b int) { offs[i+a], offs[i+b] = offs[i+b], offs[i+a] })
	}
	for batch := range slices.Chunk(offs, 8) { // eight threads at about the same offset
		var wg sync.WaitGroup
		for _, off := range batch {
			wg.Go(func() {
				p := make([]byte, step)
				if _, err := r.ReadAt(t.Context(), p, off); err != nil {
					t.Error(err)
				} else if !bytes.Equal(p, src.Data[off:off+step]) {
					t.Errorf("bytes at %d differ", off)
				}
			})
		}
		wg.Wait()
	}
	if sent := src.Sent(); float64(sent) > 1.05*float64(len(src.Data)) {
		t.Errorf("%d bytes fetched for %d", sent, len(src.Data))
	}
}

func TestEqualReadsShareOneRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &rangestest.Source{Data: rangestest.Random(mib, 4), Pin: "etag:1"}
		src.Fault = func(int, ranges.Request) rangestest.Action { return rangestest.Action{Delay: 100 * time.Millisecond} }
		e := newEngine(t, ranges.Options{Hedge: noHedge.Hedge})
		o := e.Object(src, ranges.Spec{Name: "mem", Size: mib})
		var wg sync.WaitGroup
		for i := range 50 {
			wg.Go(func() {
				r := o.Reader(ranges.ReaderOptions{})
				defer r.Close()
				p := make([]byte, 10*kib)
				off := int64(100*kib + i%2*1024) // some ranges lie inside the first one
				if i%2 == 1 {
					p = p[:kib]
				}
				if _, err := r.ReadAt(t.Context(), p, off); err != nil || !bytes.Equal(p, src.Data[off:off+int64(len(p))]) {
					t.Errorf("read %d: %v", i, err)
				}
			})
			synctest.Wait()
		}
		wg.Wait()
		if n := len(src.Requests()); n != 1 {
			t.Errorf("%d requests for equal reads, want 1", n)
		}
	})
}

func TestQueuedAdjacentReadsJoin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &rangestest.Source{Data: rangestest.Random(mib, 5), Pin: "etag:1"}
		src.Fault = func(int, ranges.Request) rangestest.Action { return rangestest.Action{Delay: 100 * time.Millisecond} }
		// Two slots: two reads fill them, sixteen adjacent ones wait.
		e := newEngine(t, ranges.Options{MaxConns: 2, PartBytes: 256 * kib, Hedge: noHedge.Hedge})
		o := e.Object(src, ranges.Spec{Name: "mem", Size: mib})
		var wg sync.WaitGroup
		read := func(off, n int64) {
			wg.Go(func() {
				r := o.Reader(ranges.ReaderOptions{})
				defer r.Close()
				p := make([]byte, n)
				if _, err := r.ReadAt(t.Context(), p, off); err != nil || !bytes.Equal(p, src.Data[off:off+n]) {
					t.Errorf("read at %d: %v", off, err)
				}
			})
			synctest.Wait()
		}
		read(900*kib, kib)
		read(950*kib, kib)
		for i := range int64(16) {
			read(i*8*kib, 8*kib)
		}
		wg.Wait()
		if n := len(src.Requests()); n != 3 {
			t.Errorf("%d requests, want 3: the sixteen adjacent reads are one", n)
		}
		if src.Sent() != 2*kib+128*kib {
			t.Errorf("%d bytes sent", src.Sent())
		}
	})
}

func TestCancelOfSharedReadSparesOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &rangestest.Source{Data: rangestest.Random(mib, 6), Pin: "etag:1"}
		src.Fault = func(int, ranges.Request) rangestest.Action { return rangestest.Action{Delay: time.Second} }
		e := newEngine(t, ranges.Options{Hedge: noHedge.Hedge})
		o := e.Object(src, ranges.Spec{Name: "mem", Size: mib})
		for _, first := range []bool{true, false} {
			ctx, cancel := context.WithCancel(t.Context())
			errs := make(chan error, 2)
			go func() {
				c := t.Context()
				if first {
					c = ctx
				}
				_, err := o.Reader(ranges.ReaderOptions{}).ReadAt(c, make([]byte, kib), 0)
				errs <- err
			}()
			synctest.Wait()
			go func() {
				c := ctx
				if first {
					c = t.Context()
				}
				p := make([]byte, kib)
				_, err := o.Reader(ranges.ReaderOptions{}).ReadAt(c, p, 0)
				if err == nil && !bytes.Equal(p, src.Data[:kib]) {
					t.Error("bytes differ")
				}
				errs <- err
			}()
			synctest.Wait()
			start := time.Now()
			cancel()
			if err := <-errs; !errors.Is(err, context.Canceled) || time.Since(start) != 0 {
				t.Errorf("first=%v: cancelled read gave %v after %v", first, err, time.Since(start))
			}
			if err := <-errs; err != nil {
				t.Errorf("first=%v: the other read failed: %v", first, err)
			}
		}
	})
}

func TestManyReadersOneBudget(t *testing.T) {
	src := &rangestest.Source{Data: rangestest.Random(8*mib, 7), Pin: "etag:1"}
	b := budget.New(2 * mib)
	e := newEngine(t, ranges.Options{PartBytes: 256 * kib, Budget: b})
	o := e.Object(src, unknown)
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			if i%2 == 0 {
				s := o.Stream(t.Context(), 0, -1, ranges.StreamOptions{})
				defer s.Close()
				var out bytes.Buffer
				if _, err := s.WriteTo(&out); err != nil || !bytes.Equal(out.Bytes(), src.Data) {
					t.Errorf("stream %d: %v", i, err)
				}
				return
			}
			r := o.Reader(ranges.ReaderOptions{})
			defer r.Close()
			p := make([]byte, 64*kib)
			for off := int64(0); off < int64(len(src.Data)); off += int64(len(p)) {
				if _, err := r.ReadAt(t.Context(), p, off); err != nil || !bytes.Equal(p, src.Data[off:off+int64(len(p))]) {
					t.Errorf("reader %d: %v", i, err)
					return
				}
			}
		})
	}
	wg.Wait()
	// Each stream may get its first part above the limit; readers may not.
	if most := b.Limit() + 8*256*kib; b.Peak() > most {
		t.Errorf("%d bytes in use at the peak, want at most %d", b.Peak(), most)
	}
}

// After a segment has failed in an outage, the next read of its range makes another
// request, even if no read waited for the segment when it failed.
func TestFailedReadAheadIsRefetched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &rangestest.Source{Data: rangestest.Random(8*mib, 1), Pin: "etag:1"}
		var down atomic.Bool
		src.Fault = func(int, ranges.Request) rangestest.Action {
			if down.Load() {
				return rangestest.Action{Err: &ranges.Fault{Kind: ranges.Retryable, Status: 503}}
			}
			return rangestest.Action{}
		}
		e := newEngine(t, ranges.Options{PartBytes: mib})
		r := e.Object(src, ranges.Spec{Name: "o", Host: "h", Size: 8 * mib}).Reader(ranges.ReaderOptions{})
		defer r.Close()
		p := make([]byte, 128*kib)
		off := int64(0)
		for range 8 {
			if _, err := r.ReadAt(t.Context(), p, off); err != nil {
				t.Fatal(err)
			}
			off += int64(len(p))
		}
		synctest.Wait()
		down.Store(true)
		var failed int64
		for range 64 { // until one fails
			if _, err := r.ReadAt(t.Context(), p, off); err != nil {
				failed = off
				break
			}
			off += int64(len(p))
		}
		if failed == 0 {
			t.Fatal("nothing failed")
		}
		time.Sleep(2 * time.Minute)
		down.Store(false)
		for ; off < int64(len(src.Data)); off += int64(len(p)) {
			if _, err := r.ReadAt(t.Context(), p, off); err != nil || !bytes.Equal(p, src.Data[off:off+int64(len(p))]) {
				t.Fatalf("read at %d after the outage: %v", off, err)
			}
		}
	})
}
