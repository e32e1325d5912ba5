//penstock:pure

package ranges

// plan cuts a span into parts. It has no clock and no I/O.
type plan struct {
	next int64 // offset of the next part
	end  int64 // end of the span; -1 unknown
	part int64 // bytes of a part
}

// take returns the next part, n == 0 at the end of the span. Parts after the
// first end at multiples of the part size, so that equal spans of one object
// make equal requests whatever their start, and caches between us and the
// object see the same ranges.
func (p *plan) take() (off, n int64) {
	off = p.next
	n = p.part - off%p.part
	if p.end >= 0 {
		n = min(n, p.end-off)
	}
	n = max(n, 0)
	p.next += n
	return off, n
}

// more reports whether parts are left.
func (p *plan) more() bool { return p.end < 0 || p.next < p.end }
