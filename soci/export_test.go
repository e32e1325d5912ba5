package soci

// MemoryUse tells tests what the budget saw.
func (p *Puller) MemoryUse() (limit, peak, inUse int64) {
	return p.mem.Limit(), p.mem.Peak(), p.mem.InUse() - p.writers.Bytes()
}

// Waiting tells tests how many directories wait for flights.
func (p *Puller) Waiting() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for _, f := range p.flights {
		f.mu.Lock()
		n += len(f.sinks)
		f.mu.Unlock()
	}
	return n
}
