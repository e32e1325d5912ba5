package flow

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

// windows allocates memory for the histories of zstd decoders. It hands out at
// most half of the budget, because garbage that the collector has not freed yet
// takes as much again. A window leaves less memory for parts that are fetched
// ahead; each layer keeps its first part.
//
// It cannot deadlock: a layer asks only while it holds no window, and a layer
// with a window waits only for its own parts and the kernel, until its frame
// ends.
type windows struct {
	mem   *budget.Budget
	most  int64 // bytes of the largest window
	limit int64 // Limits.Window
	sem   *semaphore.Weighted
}

// windowCost is the memory taken per byte of a window, because the collector
// lets as much garbage accumulate.
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
		// The memory goes to parts, which lie outside of the heap. Allocating
		// them does not start the collector, so the window is freed here.
		const large = 8 * mib
		if n >= large {
			debug.FreeOSMemory()
		}
		w.mem.Release(windowCost * n)
		w.sem.Release(n)
	}, nil
}

// explain adds to an error about a window the option that it exceeds.
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
