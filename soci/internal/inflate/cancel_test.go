package inflate

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/penstock/penstock/soci/internal/inflate/index"
)

// stalledSource returns the data of r, then calls stall and blocks until its
// context ends.
type stalledSource struct {
	ctx   context.Context
	r     io.Reader
	stall func()
}

func (s *stalledSource) Read(p []byte) (int, error) {
	if n, err := s.r.Read(p); n > 0 || err != io.EOF {
		return n, err
	}
	s.stall()
	<-s.ctx.Done()
	return 0, context.Cause(s.ctx)
}

// TestCancelled checks, for each way of decoding, that cancelling a stalled
// source ends the read with the error of the source, after correct output, and
// leaves no goroutine.
func TestCancelled(t *testing.T) {
	defer goleak.VerifyNone(t)
	r := rand.New(rand.NewPCG(17, 18))
	one, want := makeLayer(t, r)
	members := blobOf(t, r, want, 50<<10, 6)
	frames := zstdOf(t, r, splitParts(r, want, 200<<10)...)
	for _, tt := range []struct {
		name string
		blob []byte
		opts Options
	}{
		{"serial", one, Options{}},
		{"workers", one, Options{Workers: 3}},
		{"members", members, Options{Workers: 3}},
		{"index", one, Options{Workers: 3, Index: record(t, one, 100<<10)}},
		{"recording", one, Options{Workers: 3, Record: index.NewRecorder(100 << 10)}},
		{"zstd", frames, Options{}},
		{"frames", frames, Options{Workers: 3}},
	} {
		why := errors.New("cancelled by the test")
		ctx, cancel := context.WithCancelCause(t.Context())
		var stall sync.Once
		src := &stalledSource{ctx: ctx, r: bytes.NewReader(tt.blob[:len(tt.blob)*3/4]), stall: func() { stall.Do(func() { cancel(why) }) }}
		rd, err := NewReader(src, tt.opts)
		if err != nil {
			t.Fatal(tt.name, err)
		}
		got, err := io.ReadAll(rd)
		rd.Close()
		if !errors.Is(err, why) || errors.Is(err, ErrCorrupt) || !bytes.HasPrefix(want, got) {
			t.Errorf("%s: %d bytes, %v", tt.name, len(got), err)
		}
	}
}
