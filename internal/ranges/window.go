//penstock:pure

package ranges

// A window decides how many bytes a reader may fetch ahead of its consumer. Its
// owner's lock guards it.
type window struct {
	partBytes int64
	max       int64 // largest size, >= partBytes
	min       int64 // smallest size of an open window, <= partBytes
	size      int64 // bytes that may be fetched ahead; 0 if closed, else min <= size <= max
}

// newStreamWindow returns a window for a stream. It is open from the start, and
// never smaller than one part.
func newStreamWindow(partBytes, limit int64) window {
	w := window{partBytes: partBytes, max: max(limit, partBytes), min: partBytes}
	w.size = min(2*partBytes, w.max)
	return w
}

// newReaderWindow returns a closed window for reads at any offset.
func newReaderWindow(partBytes, limit int64) window {
	return window{partBytes: partBytes, max: max(limit, partBytes), min: min(partBytes, minSegment)}
}

// open sets a closed window to one part.
func (w *window) open() {
	if w.size == 0 {
		w.size = w.partBytes
	}
}

// close stops fetching ahead until the next open.
func (w *window) close() { w.size = 0 }

// consumerWaited doubles an open window. The consumer had to wait, so more bytes
// must be in flight.
func (w *window) consumerWaited() {
	if w.size > 0 {
		w.size = min(2*w.size, w.max)
	}
}

// budgetEmpty halves an open window, because the budget had no room for it.
func (w *window) budgetEmpty() {
	if w.size > 0 {
		w.size = max(w.size/2, w.min)
	}
}
