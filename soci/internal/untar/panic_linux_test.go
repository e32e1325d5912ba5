package untar

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/penstock/penstock/soci/internal/panics"
	"github.com/penstock/penstock/soci/internal/tarfile/tartest"
)

// panickingBlocks panics after a number of blocks.
type panickingBlocks struct {
	tartest.Blocks
	left int
}

func (m *panickingBlocks) NextBlock(ctx context.Context) (Block, error) {
	if m.left--; m.left < 0 {
		panic("a bug behind foreign bytes")
	}
	return m.Blocks.NextBlock(ctx)
}

// TestPanicsAreContained checks that a panic of the parser or of a writer is
// the error of one extraction, which returns its blocks and its memory, and
// that the pool stays usable.
func TestPanicsAreContained(t *testing.T) {
	x := newTB(t)
	data := repeat(100, func(i int) string { return tartest.File(fmt.Sprint("f", i), bigContent(600)) })
	var held int64
	m := NewMemory(-1, func(d int64) { held += d })
	for _, left := range []int{0, 1, 40} {
		src := &panickingBlocks{Blocks: tartest.Blocks{Data: []byte(data), Size: 1000}, left: left}
		dir := x.root + fmt.Sprint("/parser", left)
		mkdir(t, dir)
		_, err := Extract(t.Context(), src, dir, Options{Pool: x.pool, Meter: m.Meter(DefaultLimits())})
		if e, ok := errors.AsType[*Error](err); !ok || !errors.Is(err, panics.Err) || left > 2 && e.Entry == "" {
			t.Errorf("the parser, after %d blocks: %v", left, err)
		}
		if out := src.Held(); out != 0 || held != 0 {
			t.Errorf("%d blocks and %d bytes were not given back", out, held)
		}
	}
	if err := guard(func() error { panic("a writer") }); !errors.Is(err, panics.Err) {
		t.Error(err)
	}
	if _, err := x.extractIn(t.Context(), m, data, nil); err != nil {
		t.Errorf("a later extraction: %v", err)
	}
}
