package soci

// MemoryUse tells tests what the budget saw.
func (p *Puller) MemoryUse() (limit, peak, inUse int64) {
	return p.mem.Limit(), p.mem.Peak(), p.mem.InUse() - p.writers.Bytes()
}
