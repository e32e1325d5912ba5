package s3stream

// Progress receives the progress of a transfer at one node. Its methods are
// called from one goroutine at a time and must not block, because the transfer
// waits for them.
type Progress interface {
	// Start is called once, when the objects are known, with their number and
	// their bytes together.
	Start(objects int, bytes int64)
	// Advance is called a few times a second with the bytes since the last call.
	Advance(bytes int64)
	// Done is called once, when the node has all bytes. It is not called for a
	// transfer that fails.
	Done()
}

// progressMeter calls a Progress with the differences of a running total.
type progressMeter struct {
	to   Progress // or nil
	last int64
}

// newProgressMeter starts the progress of a transfer.
func newProgressMeter(to Progress, m *manifest) *progressMeter {
	if to != nil {
		to.Start(len(m.Objects), m.Bytes())
	}
	return &progressMeter{to: to}
}

// set reports that total bytes have passed.
func (p *progressMeter) set(total int64) {
	if p.to == nil || total == p.last {
		return
	}
	p.to.Advance(total - p.last)
	p.last = total
}

// done reports the end of a transfer that succeeded.
func (p *progressMeter) done(total int64) {
	p.set(total)
	if p.to != nil {
		p.to.Done()
	}
}
