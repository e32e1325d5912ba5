package soci

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

// Stats returns the counters. They are read one after another, so they need not
// describe the same moment.
func (p *Puller) Stats() Stats {
	e, f := p.engine.Stats(), p.fetcher.Stats()
	return Stats{
		Pulls: p.pulls.Load(), Flights: f.Transfers, Layers: f.Layers, Failed: f.Failed, Wrong: f.Wrong, Tar: f.Tar,
		Requests: e.Requests, Retries: e.Retries, Resumes: e.Resumes, Hedges: e.Hedges,
		Throttled: e.Throttled, Stalls: e.Stalls, Received: e.Received, Again: e.Wasted,
		MemoryLimit: p.mem.Limit(), MemoryUse: p.mem.InUse(), MemoryPeak: p.mem.Peak(),
	}
}
