package ranges

import (
	lru "container/list"
	"sync"
	"time"
)

// idleAfter is how long a reader must have done nothing before its window may go to another: far longer than a program
// that reads in order needs between two reads, so that readers at work never take from each other.
const idleAfter = time.Second

// mayReclaim decides whether the window of a reader may be given to others.
func mayReclaim(now, used time.Duration, reading bool) bool {
	return !reading && now-used >= idleAfter
}

// windows are the readers of an engine that hold a window, least recently used first.
type windows struct {
	mu   sync.Mutex // guards list and the readers' elem and used; taken after a reader's lock
	list lru.List   // of *Reader
}

// use notes that r reads now. A reader without a window is in no list.
func (w *windows) use(r *Reader, now time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	r.used = now
	if r.elem == nil {
		r.elem = w.list.PushBack(r)
	} else {
		w.list.MoveToBack(r.elem)
	}
}

// remove takes r, which holds no window any more, out of the list.
func (w *windows) remove(r *Reader) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.removeLocked(r)
}

func (w *windows) removeLocked(r *Reader) {
	if r.elem != nil {
		w.list.Remove(r.elem)
		r.elem = nil
	}
}

// reclaim drops the window of the reader that has been idle longest, and reports whether there was one. The caller may
// hold the lock of another reader: this one waits for no reader's lock.
func (w *windows) reclaim(now time.Duration) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for e := w.list.Front(); e != nil; e = e.Next() {
		r, ok := e.Value.(*Reader)
		if !ok || now-r.used < idleAfter {
			return false // those behind it are busier
		}
		if !mayReclaim(now, r.used, r.reading.Load() > 0) || !r.mu.TryLock() {
			continue
		}
		r.dropSegments()
		r.mu.Unlock()
		w.removeLocked(r)
		return true
	}
	return false
}
