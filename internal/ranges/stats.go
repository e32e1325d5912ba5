package ranges

import "sync/atomic"

// Stats counts the requests and bytes of an engine since New.
type Stats struct {
	Requests  int64 // sent, hedges and retries included
	Hedges    int64 // second requests for bytes that a first one was late with
	HedgeWins int64 // hedges that ended first
	Retries   int64 // requests after a failed one
	Resumes   int64 // retries that continued inside a part
	Throttled int64 // answers that demanded fewer requests
	Stalls    int64 // attempts ended for lack of progress
	Received  int64 // bytes received
	Wasted    int64 // bytes received a second time
}

type counters struct {
	requests, hedges, hedgeWins, retries, resumes, throttled, stalls, received, wasted atomic.Int64
}

// Stats returns the counters. It reads them one after the other, so they may
// differ by requests that ended in between.
func (e *Engine) Stats() Stats {
	c := &e.stats
	return Stats{
		Requests: c.requests.Load(), Hedges: c.hedges.Load(), HedgeWins: c.hedgeWins.Load(),
		Retries: c.retries.Load(), Resumes: c.resumes.Load(), Throttled: c.throttled.Load(),
		Stalls: c.stalls.Load(), Received: c.received.Load(), Wasted: c.wasted.Load(),
	}
}
