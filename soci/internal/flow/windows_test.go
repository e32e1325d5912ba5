package flow

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/penstock/penstock/internal/budget"
	"github.com/penstock/penstock/soci/internal/inflate"
	"github.com/penstock/penstock/soci/internal/untar"
)

// TestWindows checks that windows together take at most half of the budget,
// that further ones wait in order, and that a cancelled wait takes no memory.
func TestWindows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := budget.New(64 * mib)
		w := newWindows(mem, 128*mib)
		if w.most != 32*mib {
			t.Errorf("windows of %d at most", w.most)
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		first, err := w.reserve(ctx, 24*mib)
		if err != nil || mem.InUse() != 48*mib {
			t.Fatal(err, mem.InUse())
		}
		got := make(chan func(), 2)
		for range 2 {
			go func() {
				release, err := w.reserve(t.Context(), 16*mib)
				if err != nil {
					t.Error(err)
				}
				got <- release
			}()
		}
		gone := make(chan error)
		go func() { _, err := w.reserve(ctx, 32*mib); gone <- err }()
		synctest.Wait()
		if len(got) > 0 {
			t.Error("a second window was granted without room for it")
		}
		cancel(errStopped)
		if err := <-gone; !errors.Is(err, errStopped) {
			t.Error(err)
		}
		first()
		synctest.Wait()
		if len(got) != 2 || mem.InUse() != 64*mib {
			t.Errorf("%d windows, %d bytes in use", len(got), mem.InUse())
		}
		(<-got)()
		(<-got)()
		if mem.InUse() != 0 || mem.Peak() > 64*mib {
			t.Errorf("%d bytes in use at the end, %d at most", mem.InUse(), mem.Peak())
		}
	})
}

// TestWindowErrors checks that the error names the option that would let the
// image pass.
func TestWindowErrors(t *testing.T) {
	t.Parallel()
	large := fmt.Errorf("%w: a frame wants 64 MiB", inflate.ErrWindow)
	for limit, want := range map[int64]string{128 * mib: "half of Memory", 8 * mib: "limit Window"} {
		if err := newWindows(budget.New(64*mib), limit).explain(large); !errors.Is(err, untar.ErrLimit) || !strings.Contains(err.Error(), want) {
			t.Error(err)
		}
	}
	if err := newWindows(budget.New(64*mib), 1).explain(errCut); err != errCut {
		t.Error(err)
	}
}
