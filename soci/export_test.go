package soci

// MemoryUse returns the state of the budget, without the buffers of the
// writers.
func (p *Puller) MemoryUse() (limit, peak, inUse int64) {
	return p.mem.Limit(), p.mem.Peak(), p.mem.InUse() - p.writers.Bytes()
}

// Waiting returns the number of directories that wait for a layer.
func (p *Puller) Waiting() int { return int(p.fetcher.Stats().Targets) }
