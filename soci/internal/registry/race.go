package registry

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// staggerDelay is the time without an answer after which the next host is asked
// as well. It is longer than a pull-through cache takes to fetch a manifest,
// and far shorter than the time-out of a dead host.
const staggerDelay = 2 * time.Second

// errSilent is the error of a host that had not answered by the time another
// host did, or the caller gave up.
var errSilent = errors.New("no answer")

// race calls ask with 0 to n-1. It makes each call once the previous one has
// failed or has lasted for staggerDelay. The first answer cancels the other
// calls. A call that has lasted for at least the duration least by then fails
// with errSilent.
//
// errs[i] is the error of ask(ctx, i), even if another call has answered. race
// returns when all calls have returned.
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
			next = time.NewTimer(staggerDelay)
		} else {
			next.Reset(staggerDelay)
		}
		wg.Go(func() {
			v, err := ask(ctx, i)
			results <- result{i, v, err}
		})
	}
	begin()
	defer next.Stop()
	// markSilent sets the error of the calls that have not returned for least.
	markSilent := func(winner int) {
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
				markSilent(r.i)
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
			markSilent(-1)
			return answer, false, errs
		}
	}
	return answer, false, errs
}
