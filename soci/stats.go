package soci

import "sync/atomic"

// Stats counts what a Puller has done since it was made, for metrics.
type Stats struct {
	Pulls   int64 // Pull and PullLayers under way now
	Flights int64 // layers being fetched now
	Layers  int64 // layers fetched and verified
	Failed  int64 // layers that could not be had
	Wrong   int64 // attempts whose bytes were not what their digest says
	Tar     int64 // bytes inflated

	Requests  int64 // sent, hedges and retries included
	Retries   int64
	Resumes   int64 // retries that went on inside a part
	Hedges    int64
	Throttled int64 // answers that asked for fewer requests
	Stalls    int64 // requests ended because no byte came
	Received  int64 // bytes of bodies
	Again     int64 // bytes of them that came a second time

	MemoryLimit, MemoryUse, MemoryPeak int64 // bytes of buffers
}

// counts are the Puller's own.
type counts struct{ pulls, layers, failed, wrong, tar atomic.Int64 }

// Stats returns the counters. They are read one by one, so they may be apart by what
// happened meanwhile.
func (p *Puller) Stats() Stats {
	e := p.engine.Stats()
	p.mu.Lock()
	flights := int64(len(p.flights))
	p.mu.Unlock()
	return Stats{
		Pulls: p.counts.pulls.Load(), Flights: flights, Layers: p.counts.layers.Load(),
		Failed: p.counts.failed.Load(), Wrong: p.counts.wrong.Load(), Tar: p.counts.tar.Load(),
		Requests: e.Requests, Retries: e.Retries, Resumes: e.Resumes, Hedges: e.Hedges,
		Throttled: e.Throttled, Stalls: e.Stalls, Received: e.Received, Again: e.Wasted,
		MemoryLimit: p.mem.Limit(), MemoryUse: p.mem.InUse(), MemoryPeak: p.mem.Peak(),
	}
}
