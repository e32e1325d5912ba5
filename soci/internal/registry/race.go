package registry

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// stagger is how long a host may be silent before the next one is asked beside it: longer
// than a pull-through cache takes to fetch a manifest, a fraction of what a dead one costs.
const stagger = 2 * time.Second

// errSilent is the failure of a host that had not answered when another one did, or when the
// caller gave up.
var errSilent = errors.New("no answer")

// race asks n places for the same thing, in order: the next one as soon as the one before
// has failed or was silent for stagger. The first answer ends the other requests; who had said
// nothing for least by then was silent. Without
// an answer it returns the error of each place that was asked, by its number; with one, too, so that the
// silence of places before it is known. It returns when all requests have ended.
func race[T any](ctx context.Context, n int, least time.Duration, ask func(ctx context.Context, i int) (T, error)) (answer T, ok bool, errs []error) {
	type result struct {
		i     int
		value T
		err   error
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	results := make(chan result, n)
	since := make([]time.Time, 0, n)
	errs = make([]error, n)
	var next *time.Timer
	open := 0
	begin := func() {
		i := len(since)
		since = append(since, time.Now())
		open++
		if next == nil {
			next = time.NewTimer(stagger)
		} else {
			next.Reset(stagger)
		}
		wg.Go(func() {
			v, err := ask(ctx, i)
			results <- result{i, v, err}
		})
	}
	begin()
	defer next.Stop()
	// silence marks the places that have not answered for long, at the end.
	silence := func(winner int) {
		for i, t := range since {
			if d := time.Since(t); i != winner && errs[i] == nil && d >= least {
				errs[i] = fmt.Errorf("%w for %v", errSilent, d.Round(100*time.Millisecond))
			}
		}
	}
	for open > 0 {
		select {
		case r := <-results:
			open--
			if r.err == nil {
				silence(r.i)
				return r.value, true, errs
			}
			errs[r.i] = r.err
			if ctx.Err() == nil && len(since) < n {
				begin()
			}
		case <-next.C:
			if len(since) < n {
				begin()
			}
		case <-ctx.Done():
			silence(-1)
			return answer, false, errs
		}
	}
	return answer, false, errs
}
