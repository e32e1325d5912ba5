package dnsplugin

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"slices"
	"sync"
	"weak"

	"github.com/penstock/penstock/dnsplugin/internal/store"
)

// The garbage collector lets the heap grow by GOGC percent of the live heap
// before it runs again, so that its work, following pointers, stays in
// proportion. Entries have no pointers and cause no work, but would get the same
// headroom: a cache of 150 MB made a process of 370 MB. So after each collection
// we set GOGC such that the heap may grow by the live memory without the
// entries. If the program sets GOGC to another value at any time, we leave it.

// minHeadroom is the least that the heap may grow: twice as much as Go grants a
// program with an empty heap.
const minHeadroom = 8 << 20

// goDefault is GOGC if it is not set.
const goDefault = 100

// heap is the interface of the collector that a headroom needs.
type heap interface {
	read() (live int64, percent int)
	set(percent int)
}

// headroom adapts the collector's target to the stores of running instances.
type headroom struct {
	heap heap

	mu     sync.Mutex                  // guards all below
	stores []weak.Pointer[store.Store] // weak, because the start of an instance may fail later
	base   int                         // GOGC without us
	last   int                         // GOGC as we set it, or 0 while inactive
}

// add takes the stores of c into account.
func (h *headroom) add(c *Cache) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.stores) == 0 {
		_, h.base = h.heap.read()
		h.last = h.base
		if h.base == goDefault {
			h.watchLocked()
		}
	}
	h.stores = append(h.stores, weak.Make(c.sides.Success.Store), weak.Make(c.sides.Denial.Store))
}

// remove forgets the stores of c, and restores GOGC if no others are left.
func (h *headroom) remove(c *Cache) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range []*store.Store{c.sides.Success.Store, c.sides.Denial.Store} {
		if i := slices.Index(h.stores, weak.Make(s)); i >= 0 {
			h.stores = slices.Delete(h.stores, i, i+1)
		}
	}
	if len(h.stores) == 0 {
		h.restoreLocked()
	}
}

// restoreLocked restores the original GOGC. mu must be held.
func (h *headroom) restoreLocked() {
	if _, now := h.heap.read(); now == h.last && now != h.base {
		h.heap.set(h.base)
	}
	h.last = 0
}

// watchLocked lets adjust run after the next collection. mu must be held.
func (h *headroom) watchLocked() {
	type mark struct{ _ *mark } // a pointer, so that it is not allocated together with other tiny objects
	runtime.AddCleanup(new(mark), (*headroom).adjust, h)
}

// adjust sets the target again if it has changed by more than a tenth.
func (h *headroom) adjust() {
	h.mu.Lock()
	defer h.mu.Unlock()
	live, now := h.heap.read()
	if h.last == 0 || now != h.last {
		return // inactive, or the program has set GOGC itself
	}
	h.stores = slices.DeleteFunc(h.stores, func(p weak.Pointer[store.Store]) bool { return p.Value() == nil })
	if len(h.stores) == 0 {
		h.restoreLocked()
		return
	}
	// A store is listed twice while a new instance takes it over from the old one.
	kept, seen := int64(0), map[*store.Store]bool{}
	for _, p := range h.stores {
		if s := p.Value(); s != nil && !seen[s] {
			seen[s] = true
			kept += s.Bytes()
		}
	}
	// Setting GOGC stops the program for a moment.
	if want := percentFor(live, kept, h.base); want < now*9/10 || want > now*11/10 {
		h.heap.set(want)
		h.last = want
	}
	h.watchLocked()
}

// percentFor returns the GOGC at which a heap of live bytes, of which kept have
// no pointers, grows by base percent of the remaining bytes.
func percentFor(live, kept int64, base int) int {
	rest := max(live-kept, minHeadroom)
	if rest >= live {
		return base
	}
	return max(1, int(int64(base)*rest/live))
}

// goHeap is the heap of the Go runtime.
type goHeap struct{}

func (goHeap) read() (live int64, percent int) {
	s := []metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/gc/gogc:percent"}}
	metrics.Read(s)
	// For GOGC=off the value is the largest number.
	if p := s[1].Value.Uint64(); p < 1<<31 {
		percent = int(p)
	}
	return int64(s[0].Value.Uint64()), percent
}

func (goHeap) set(percent int) { debug.SetGCPercent(percent) }
