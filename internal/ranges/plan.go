//penstock:pure

package ranges

// A plan cuts a span into parts.
type plan struct {
	off       int64 // offset of the next part
	end       int64 // end of the span; -1 if unknown
	partBytes int64
}

// take returns the next part; n is 0 at the end of the span. Parts end at
// multiples of the part size, so that streams from different offsets make the
// same requests, which caches on the way can answer.
func (p *plan) take() (off, n int64) {
	off = p.off
	n = p.partBytes - off%p.partBytes
	if p.end >= 0 {
		n = min(n, p.end-off)
	}
	n = max(n, 0)
	p.off += n
	return off, n
}

// more reports whether parts remain.
func (p *plan) more() bool { return p.end < 0 || p.off < p.end }
