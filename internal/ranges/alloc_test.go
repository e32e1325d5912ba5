package ranges_test

import (
	"context"
	"io"
	"sync"
	"testing"

	"github.com/penstock/penstock/internal/budget"
	"github.com/penstock/penstock/internal/ranges"
)

// allocFreeSource is a source that allocates nothing, so that a test counts only
// the engine's allocations.
type allocFreeSource struct {
	size   int64
	bodies sync.Pool
}

type allocFreeBody struct {
	q    *allocFreeSource
	left int64
}

func (q *allocFreeSource) Open(_ context.Context, req ranges.Request) (io.ReadCloser, ranges.Info, error) {
	n := min(req.Len, q.size-req.Off)
	b, _ := q.bodies.Get().(*allocFreeBody)
	if b == nil {
		b = &allocFreeBody{q: q}
	}
	b.left = n
	return b, ranges.Info{Size: q.size, Off: req.Off, Len: n, Pin: "etag:1"}, nil
}

func (b *allocFreeBody) Read(p []byte) (int, error) {
	n := min(int64(len(p)), b.left)
	b.left -= n
	if b.left == 0 {
		return int(n), io.EOF
	}
	return int(n), nil
}

func (b *allocFreeBody) Close() error { b.q.bodies.Put(b); return nil }

// Buffers, tasks and lanes are reused, so a part costs no allocation once the
// stream runs.
func TestAllocsPerPart(t *testing.T) {
	const part = 64 * kib
	e := newEngine(t, ranges.Options{PartBytes: part, Budget: budget.New(8 * mib), Hedge: noHedge.Hedge})
	src := &allocFreeSource{size: 1 << 40}
	s := e.Object(src, ranges.Spec{Name: "quiet", Size: src.size}).Stream(t.Context(), 0, -1, ranges.StreamOptions{})
	defer s.Close()
	next := func() {
		p, err := s.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		p.Buf.Release()
	}
	for range 500 {
		next()
	}
	if n := testing.AllocsPerRun(2000, next); n != 0 {
		t.Errorf("%v allocations a part, want 0", n)
	}
	buf := make([]byte, part)
	o := e.Object(src, ranges.Spec{Name: "quiet", Size: src.size})
	fetch := func() {
		if _, err := o.Fetch(t.Context(), buf, 0); err != nil {
			t.Fatal(err)
		}
	}
	fetch()
	if n := testing.AllocsPerRun(2000, fetch); n != 0 {
		t.Errorf("%v allocations a fetch, want 0", n)
	}
}

func BenchmarkStreamPart(b *testing.B) {
	const part = 1 * mib
	e := newEngine(b, ranges.Options{PartBytes: part, Budget: budget.New(64 * mib)})
	src := &allocFreeSource{size: 1 << 50}
	s := e.Object(src, ranges.Spec{Name: "quiet", Size: src.size}).Stream(b.Context(), 0, -1, ranges.StreamOptions{})
	defer s.Close()
	b.SetBytes(part)
	b.ReportAllocs()
	for b.Loop() {
		p, err := s.Next(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		p.Buf.Release()
	}
}
