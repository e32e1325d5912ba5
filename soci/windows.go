package soci

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"

	"golang.org/x/sync/semaphore"

	"github.com/penstock/penstock/internal/budget"
	"github.com/penstock/penstock/soci/internal/inflate"
	"github.com/penstock/penstock/soci/internal/untar"
)

// windows hands out memory for the histories of zstd decoders: half of the budget, so that
// together with what the collector has not freed yet they fit it. What is handed out is
// taken from the parts that are fetched ahead; each layer keeps its first one.
//
// No deadlock: a layer asks while it holds no window, and one that holds one waits for its
// own parts and the kernel only, until its frame or the layer ends.
type windows struct {
	mem   *budget.Budget
	most  int64 // the largest
	limit int64 // Limits.Window
	sem   *semaphore.Weighted
}

// windowCost is how many bytes a window takes for each of its own: the collector lets as
// much garbage grow beside it.
const windowCost = 2

func newWindows(mem *budget.Budget, limit int64) *windows {
	half := mem.Limit() / windowCost
	return &windows{mem: mem, most: min(limit, half), limit: limit, sem: semaphore.NewWeighted(half)}
}

// reserve waits for room for a window of n bytes, at most w.most.
func (w *windows) reserve(ctx context.Context, n int64) (release func(), err error) {
	if err := w.sem.Acquire(ctx, n); err != nil {
		return nil, context.Cause(ctx)
	}
	w.mem.Force(windowCost * n)
	return func() {
		// What the next layers fetch lies outside the heap: the collector would not see
		// that it takes the place of what is garbage now.
		const large = 8 * mib
		if n >= large {
			debug.FreeOSMemory()
		}
		w.mem.Release(windowCost * n)
		w.sem.Release(n)
	}, nil
}

// explain says which option a window exceeds.
func (w *windows) explain(err error) error {
	if !errors.Is(err, inflate.ErrWindow) {
		return err
	}
	which := "limit Window"
	if w.most < w.limit {
		which = "half of Memory: allow more memory"
	}
	return fmt.Errorf("%w: %w (%s)", untar.ErrLimit, err, which)
}
