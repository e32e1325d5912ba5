package ranges_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/penstock/penstock/internal/budget"
	"github.com/penstock/penstock/internal/ranges"
	"github.com/penstock/penstock/internal/ranges/rangestest"
)

const (
	kib = 1 << 10
	mib = 1 << 20
)

// newEngine returns an engine with small parts. The test's cleanup closes it.
func newEngine(t testing.TB, opts ranges.Options) *ranges.Engine {
	t.Helper()
	if opts.Budget == nil {
		opts.Budget = budget.New(64 * mib)
	}
	if opts.PartBytes == 0 {
		opts.PartBytes = 64 * kib
	}
	e, err := ranges.New(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
		if n := opts.Budget.InUse(); n != 0 {
			t.Errorf("%d bytes of the budget are still in use", n)
		}
		opts.Budget.Trim()
	})
	return e
}

// noHedge turns hedges off in tests that count requests, because a busy machine
// causes some.
var noHedge = ranges.Options{Hedge: ranges.HedgePolicy{Quantile: -1}}

// unknown is the Spec of an object without size, pin and checksum.
var unknown = ranges.Spec{Name: "mem://o", Host: "mem", Size: -1}

func readAll(t *testing.T, s *ranges.Stream) []byte {
	t.Helper()
	var out bytes.Buffer
	if _, err := s.WriteTo(&out); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestStreamWhole(t *testing.T) {
	for _, size := range []int{0, 1, 64*kib - 1, 64 * kib, 64*kib + 1, 5*mib + 17} {
		for _, alg := range []ranges.ChecksumAlgorithm{ranges.NoChecksum, ranges.CRC32C, ranges.CRC64NVME} {
			src := &rangestest.Source{Data: rangestest.Random(size, 1), Pin: "etag:1", Sum: alg}
			e := newEngine(t, noHedge)
			s := e.Object(src, unknown).Stream(t.Context(), 0, -1, ranges.StreamOptions{})
			if got := readAll(t, s); !bytes.Equal(got, src.Data) {
				t.Errorf("size %d: %d bytes differ", size, len(got))
			}
			if sum, ok := s.Sum(); alg != ranges.NoChecksum && size > 0 && (!ok || sum != src.Checksum()) {
				t.Errorf("size %d: sum %v, want %v", size, sum, src.Checksum())
			}
			s.Close()
			if src.Sent() != int64(size) {
				t.Errorf("size %d: %d bytes sent", size, src.Sent())
			}
		}
	}
}

func TestStreamFaultsTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &rangestest.Source{Data: rangestest.Random(16*mib, 2), Pin: "etag:1", Sum: ranges.CRC64NVME}
		// Ends of the ranges that have stalled. A range stalls once: the engine has no
		// answer to a hedge that stalls like the request it is for, except to wait.
		var stalled sync.Map
		src.Fault = func(n int, req ranges.Request) rangestest.Action {
			a := rangestest.Action{Delay: 10 * time.Millisecond}
			switch {
			case n%10 == 3:
				a.Err = &ranges.Fault{Kind: ranges.Throttled, Status: 503}
			case n%10 == 5:
				a.Cut, a.CutAt = true, req.Len/3
			case n%50 == 27:
				if _, again := stalled.LoadOrStore(req.Off+req.Len, true); !again {
					a.Stall, a.StallAt = 5*time.Second, req.Len/2
				}
			}
			return a
		}
		e := newEngine(t, ranges.Options{})
		start := time.Now()
		s := e.Object(src, unknown).Stream(t.Context(), 0, -1, ranges.StreamOptions{})
		defer s.Close()
		if got := readAll(t, s); !bytes.Equal(got, src.Data) {
			t.Fatal("bytes differ")
		}
		st := e.Stats()
		if d := time.Since(start); d > 4*time.Second {
			t.Errorf("took %v: the stream waited for a 5 s stall; %+v", d, st)
		}
		if st.Wasted*20 > int64(len(src.Data)) {
			t.Errorf("more than 5 %% of the bytes arrived twice: %+v", st)
		}
		if st.Hedges == 0 || st.Throttled == 0 || st.Resumes == 0 {
			t.Errorf("not all faults occurred: %+v", st)
		}
		if st.Hedges*20 > st.Requests+20 {
			t.Errorf("hedges above their budget: %+v", st)
		}
	})
}

func TestVersionsAreNeverMixed(t *testing.T) {
	src := &rangestest.Source{Data: rangestest.Random(4*mib, 3), Pin: "etag:1"}
	src.Fault = func(n int, req ranges.Request) rangestest.Action {
		if n >= 20 {
			return rangestest.Action{Err: &ranges.Fault{Kind: ranges.Changed, Status: 412}}
		}
		return rangestest.Action{}
	}
	e := newEngine(t, ranges.Options{})
	s := e.Object(src, unknown).Stream(t.Context(), 0, -1, ranges.StreamOptions{})
	defer s.Close()
	var out bytes.Buffer
	_, err := io.Copy(&out, s)
	var re *ranges.Error
	if !errors.Is(err, ranges.ErrChanged) || !errors.As(err, &re) || re.Status != 412 {
		t.Fatalf("error %v, want ErrChanged with its status", err)
	}
	if !bytes.Equal(out.Bytes(), src.Data[:out.Len()]) {
		t.Fatal("delivered bytes are not a prefix")
	}
}

func TestFetch(t *testing.T) {
	src := &rangestest.Source{Data: rangestest.Random(3*mib+5, 4), Pin: "etag:1"}
	e := newEngine(t, ranges.Options{})
	o := e.Object(src, unknown)
	for _, c := range []struct{ off, n int }{{0, 10}, {100, 64 * kib}, {12345, mib}, {3 * mib, 5}, {3 * mib, 100}, {4 * mib, 10}} {
		p := make([]byte, c.n)
		n, err := o.Fetch(context.Background(), p, int64(c.off))
		want := src.Data[min(c.off, len(src.Data)):min(c.off+c.n, len(src.Data))]
		if !bytes.Equal(p[:n], want) {
			t.Errorf("%+v: got %d bytes, want %d", c, n, len(want))
		}
		if (err != nil) != (n < c.n) || (err != nil && err != io.EOF) {
			t.Errorf("%+v: error %v", c, err)
		}
	}
}

func TestPlainServer(t *testing.T) {
	for _, off := range []int64{0, 1000} {
		src := &rangestest.Source{Data: rangestest.Random(2*mib+5, 5), Pin: "etag:1", Sum: ranges.CRC32C}
		src.Fault = func(n int, _ ranges.Request) rangestest.Action {
			return rangestest.Action{Whole: true, Cut: n == 0, CutAt: 300 * kib}
		}
		e := newEngine(t, noHedge)
		s := e.Object(src, unknown).Stream(t.Context(), off, -1, ranges.StreamOptions{})
		if got := readAll(t, s); !bytes.Equal(got, src.Data[off:]) {
			t.Errorf("from %d: bytes differ (%d)", off, len(got))
		}
		s.Close()
		if n := len(src.Requests()); n != 2 {
			t.Errorf("%d requests, want 2", n)
		}
	}
}
