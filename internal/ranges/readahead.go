//penstock:pure

package ranges

// readAhead decides how far a random-access reader fetches ahead. The pattern of
// the reads opens and closes the window.
type readAhead struct {
	off bool // never fetches ahead
	window
	pattern
}

// newReadAhead returns a readAhead with a window of at most limit bytes; a
// negative limit turns it off.
func newReadAhead(partBytes, limit int64) readAhead {
	return readAhead{off: limit < 0, window: newReaderWindow(partBytes, limit), pattern: newPattern()}
}

// read records a read of [off, off+n) and classifies it.
func (r *readAhead) read(off, n int64) access {
	if r.off {
		return accessRandom
	}
	a := r.pattern.read(off, n, r.window.size)
	switch a {
	case accessSequential:
		r.window.open()
	case accessSeek:
		r.window.close()
	case accessRandom:
	}
	return a
}

// bytes returns how many bytes beyond the last read may be fetched: the window,
// but no more than twice the bytes of the run, so that bytes fetched in vain stay
// in proportion to the bytes read.
func (r *readAhead) bytes() int64 { return min(r.window.size, 2*r.pattern.run) }
