package ranges

import "sync/atomic"

// Stats counts what an engine did since it was made.
type Stats struct {
	Requests  int64 // sent, hedges and retries included
	Hedges    int64 // second requests for bytes that another was late with
	HedgeWins int64 // hedges that ended first
	Retries   int64 // requests after a failed one
	Resumes   int64 // retries that went on from inside a part
	Throttled int64 // answers that asked for fewer requests
	Stalls    int64 // attempts ended because no byte came
	Received  int64 // bytes that came
	Wasted    int64 // bytes that came a second time
}

type counters struct {
	requests, hedges, hedgeWins, retries, resumes, throttled, stalls, received, wasted atomic.Int64
}

// Stats returns the counters. They are read one by one, so they may be apart
// by what happened meanwhile.
func (e *Engine) Stats() Stats {
	c := &e.stats
	return Stats{
		Requests: c.requests.Load(), Hedges: c.hedges.Load(), HedgeWins: c.hedgeWins.Load(),
		Retries: c.retries.Load(), Resumes: c.resumes.Load(), Throttled: c.throttled.Load(),
		Stalls: c.stalls.Load(), Received: c.received.Load(), Wasted: c.wasted.Load(),
	}
}
