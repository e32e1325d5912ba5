package ranges

// window decides how far a reader may run ahead of its consumer. It has no
// clock and no I/O; its owner's lock guards it.
//
// A stream starts sequential. A random-access reader starts with no window and
// earns one: after two reads that continue each other it may fetch ahead as
// many bytes as the run was long, so that what is fetched in vain stays in
// proportion to what was read.
type window struct {
	part  int64 // bytes of a part
	max   int64 // largest window in bytes, >= part
	least int64 // smallest window in bytes, <= part
	size  int64 // bytes that may be fetched ahead; 0 = random, else least <= size <= max

	// For random access only.
	off  bool  // never fetch ahead
	next int64 // where the next sequential read would start; -1 none yet
	run  int64 // bytes read in sequence up to next
	seq  int   // reads in this run
	far  int   // reads elsewhere since the last one of this run
}

// A run is sequential from its third read on: two neighbours do occur by
// chance among random reads, three hardly ever do.
const seqReads = 3

// tolerance is how far a read may be off the expected offset and still belong
// to the run: the kernel sends read-ahead requests of one file from several
// threads, up to a few requests out of order.
const tolerance = 4 << 20

func newWindow(part, limit int64, sequential bool) window {
	w := window{part: part, max: max(limit, part), least: min(part, minSegment), next: -1}
	if sequential {
		w.least = part
		w.size = min(2*part, w.max)
	}
	return w
}

// stalled grows the window: the consumer had to wait, so more bytes must be on
// their way.
func (w *window) stalled() {
	if w.size > 0 {
		w.size = min(2*w.size, w.max)
	}
}

// pressure shrinks the window: the budget had no room. Never below one part
// for a stream, and one request for a random-access reader.
func (w *window) pressure() {
	if w.size > 0 {
		w.size = max(w.size/2, w.least)
	}
}

// read records a random-access read of [off, off+n) and reports whether it
// belongs to a sequential run; seek is true when it ends one.
func (w *window) read(off, n int64) (sequential, seek bool) {
	switch {
	case w.next < 0:
	case off == w.next:
		w.seq++
		w.run += n
		w.next = off + n
		w.far = 0
		if w.size == 0 && w.seq >= seqReads-1 && !w.off {
			w.size = w.part
		}
		return w.size > 0, false
	case w.size > 0 && off >= w.next-tolerance && off <= w.next+max(w.size, tolerance):
		if off+n > w.next {
			w.run += off + n - w.next
			w.next = off + n
		}
		w.far = 0
		return true, false
	case w.size > 0 && w.far+1 < seqReads:
		// A straggler, or a look at the object's index: no reason to give up
		// what is on its way.
		w.far++
		return false, false
	}
	seek = w.size > 0
	w.size, w.seq, w.run, w.far = 0, 0, n, 0
	w.next = off + n
	return false, seek
}

// ahead returns how many bytes beyond the last read may be asked for: the
// window, but no more than twice the run so far, and at least one read's worth.
func (w *window) ahead() int64 {
	if w.size == 0 {
		return 0
	}
	return min(w.size, 2*w.run)
}
