package soci

import "sync/atomic"

// Stats counts the work of a Puller since it was created, for metrics.
type Stats struct {
	Pulls   int64 // calls of Pull and PullLayers in progress
	Flights int64 // layers being fetched
	Layers  int64 // layers fetched and verified
	Failed  int64 // layers that could not be fetched
	Wrong   int64 // attempts whose bytes did not match the digest
	Tar     int64 // bytes inflated

	Requests  int64 // sent, including hedges and retries
	Retries   int64
	Resumes   int64 // retries that resumed inside a part
	Hedges    int64
	Throttled int64 // answers that asked for fewer requests
	Stalls    int64 // requests ended because no bytes arrived
	Received  int64 // bytes of bodies
	Again     int64 // bytes of Received that arrived a second time

	MemoryLimit, MemoryUse, MemoryPeak int64 // bytes of buffers
}

// counts are the Puller's own.
type counts struct{ pulls, layers, failed, wrong, tar atomic.Int64 }

// Stats returns the counters. They are read one after another, so they need not
// describe the same moment.
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
