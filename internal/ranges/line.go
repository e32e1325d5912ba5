package ranges

import "sync/atomic"

// line counts the parts of a stream that have ended but are not delivered yet.
type line struct {
	over atomic.Int64
	// wanted is the number at which the consumer, who waits for the head, wants to
	// be told; 0: it does not wait.
	wanted atomic.Int64
	// late: the head has brought nothing for a while. Set by the monitor.
	late atomic.Bool
	told chan struct{} // capacity 1
}

func (l *line) finished() {
	n := l.over.Add(1)
	if w := l.wanted.Load(); w > 0 && n >= w {
		l.tell()
	}
}

// behind notes that the head is late.
func (l *line) behind() {
	if !l.late.Swap(true) {
		l.tell()
	}
}

func (l *line) tell() { signal(l.told) }

// want asks to be told when n parts are over; they may be by now.
func (l *line) want(n int64) {
	l.wanted.Store(n)
	if l.over.Load() >= n {
		l.tell()
	}
}
