package ranges

import (
	lru "container/list"
	"sync"
	"time"
)

// idleAfter is how long a reader must have been idle before another reader may
// take the memory of its window. It is far longer than the time between two reads
// of a program that reads in order, so active readers never lose their windows.
const idleAfter = time.Second

// mayReclaim decides whether a reader may lose its window.
func mayReclaim(now, used time.Duration, reading bool) bool {
	return !reading && now-used >= idleAfter
}

// windows are the readers of an engine that hold a window, least recently used
// first.
type windows struct {
	mu   sync.Mutex // guards list and the readers' elem and used; taken after a reader's lock
	list lru.List   // of *Reader
}

// use records that r, which holds a window, reads now.
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

// remove takes r, which has given up its window, out of the list.
func (w *windows) remove(r *Reader) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.removeLocked(r)
}

// removeLocked is remove. mu must be held.
func (w *windows) removeLocked(r *Reader) {
	if r.elem != nil {
		w.list.Remove(r.elem)
		r.elem = nil
	}
}

// reclaim drops the window of the reader that has been idle longest, and reports
// whether there was one. It waits for no reader's lock, so the caller may hold
// one.
func (w *windows) reclaim(now time.Duration) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for e := w.list.Front(); e != nil; e = e.Next() {
		r, ok := e.Value.(*Reader)
		if !ok || now-r.used < idleAfter {
			return false // the later ones have been idle for less time
		}
		if !mayReclaim(now, r.used, r.reading.Load() > 0) || !r.mu.TryLock() {
			continue
		}
		r.dropSegmentsLocked()
		r.mu.Unlock()
		w.removeLocked(r)
		return true
	}
	return false
}
