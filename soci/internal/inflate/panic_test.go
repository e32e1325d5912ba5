package inflate

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"

	"github.com/penstock/penstock/soci/internal/inflate/flate"
	"github.com/penstock/penstock/soci/internal/inflate/index"
	"github.com/penstock/penstock/soci/internal/panics"
)

// panickingSource is a source that panics when one of its bytes is read.
type panickingSource struct {
	blob []byte
	at   int64
	pos  int64
	hits atomic.Int64
}

func (m *panickingSource) Read(p []byte) (int, error) {
	p = p[:min(len(p), 4<<10)]
	if m.pos <= m.at && m.at < m.pos+int64(len(p)) {
		m.hits.Add(1)
		panic("a decoder's bug")
	}
	n, err := bytes.NewReader(m.blob).ReadAt(p, m.pos)
	m.pos += int64(n)
	return n, err
}

// TestPanicsAreContained checks that a panic while a blob is decoded, in the
// goroutine that reads or in a worker, ends the blob with an error, after
// correct output, and ends all workers.
func TestPanicsAreContained(t *testing.T) {
	defer goleak.VerifyNone(t)
	r := rand.New(rand.NewPCG(31, 32))
	one, want := makeLayer(t, r)
	many, wantMany := slices.Repeat(one, 3), slices.Repeat(want, 3)
	x := record(t, one, 100<<10)
	for name, tt := range map[string]struct {
		blob, want []byte
		x          *index.Index
	}{
		"stream":  {one, want, nil},
		"members": {many, wantMany, nil},
		"index":   {one, want, x},
	} {
		for _, workers := range []int{1, 2, 4} {
			m := &panickingSource{blob: tt.blob, at: int64(len(tt.blob)) * 2 / 3}
			var got []byte
			err := panics.Guard(func() {
				opts := Options{Workers: workers, Index: tt.x}
				d, err := NewReader(m, opts)
				if err != nil {
					t.Error(err)
					return
				}
				defer d.Close()
				for p := make([]byte, 10_000); err == nil; {
					var n int
					n, err = d.Read(p)
					got = append(got, p[:n]...)
				}
				if m.hits.Load() == 0 || errors.Is(err, ErrCorrupt) || !errors.Is(err, panics.Err) {
					t.Errorf("%s, %d workers: %d panics, %v", name, workers, m.hits.Load(), err)
				}
			})
			if err != nil && m.hits.Load() == 0 {
				t.Errorf("%s, %d workers: %v", name, workers, err)
			}
			if !bytes.HasPrefix(tt.want, got) {
				t.Errorf("%s, %d workers: wrong bytes before the end", name, workers)
			}
		}
	}
}

// TestJobsThatPanic checks that a job that panics is not good and that its
// worker survives.
func TestJobsThatPanic(t *testing.T) {
	j := &frameJob{in: []byte("x"), bound: 1, good: true}
	j.decode(nil)
	if j.good {
		t.Error("a frame")
	}
	p := newParallel(flate.NewInput(io.LimitReader(nil, 0)), 1, jobSizes{min: 1, max: 1 << 10, out: 1 << 10})
	bad := &job{in: nil, out: nil, done: make(chan struct{}), good: true}
	p.todo <- bad
	<-bad.done
	if bad.good {
		t.Error("a member")
	}
	p.close()
}
