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

// The collector lets the heap grow by GOGC percent of what is live before it
// runs again, so that its work stays in proportion. Its work is to follow
// pointers. Entries have none: they take no work, but as much headroom as
// everything else, and a cache of 150 MB made a process of 370 MB. So after each
// collection GOGC is set such that the heap may grow by what is live beside the
// entries. Who has set GOGC to another value, or sets it while we run, is left alone.

// minHeadroom is how much the heap may grow in any case: twice what Go grants
// a program that keeps nothing.
const minHeadroom = 8 << 20

// goDefault is GOGC where nobody has set it.
const goDefault = 100

// heap is the collector as a headroom sees and moves it.
type heap interface {
	read() (live int64, percent int)
	set(percent int)
}

// headroom moves the collector's target for the stores of running instances.
type headroom struct {
	heap heap

	mu     sync.Mutex                  // guards all below
	stores []weak.Pointer[store.Store] // weak for those of an instance whose start fails later on
	base   int                         // GOGC without us
	last   int                         // as we have set it; 0: not at work
}

// headrooms is that of this process.
var headrooms = &headroom{heap: goHeap{}}

// add takes the stores of c into account.
func (h *headroom) add(c *Cache) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.stores) == 0 {
		_, h.base = h.heap.read()
		h.last = h.base
		if h.base == goDefault {
			h.watch()
		}
	}
	h.stores = append(h.stores, weak.Make(c.sides.Success.Store), weak.Make(c.sides.Denial.Store))
}

// remove forgets the stores of c. Without any, all is as it was.
func (h *headroom) remove(c *Cache) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range []*store.Store{c.sides.Success.Store, c.sides.Denial.Store} {
		if i := slices.Index(h.stores, weak.Make(s)); i >= 0 {
			h.stores = slices.Delete(h.stores, i, i+1)
		}
	}
	if len(h.stores) == 0 {
		h.end()
	}
}

// end leaves GOGC as it was. The caller holds the lock.
func (h *headroom) end() {
	if _, now := h.heap.read(); now == h.last && now != h.base {
		h.heap.set(h.base)
	}
	h.last = 0
}

// watch lets adjust run after the next collection. The caller holds the lock.
func (h *headroom) watch() {
	type mark struct{ _ *mark } // a pointer keeps it out of the allocator of tiny objects
	runtime.AddCleanup(new(mark), (*headroom).adjust, h)
}

// adjust sets the target anew, if it is worth it.
func (h *headroom) adjust() {
	h.mu.Lock()
	defer h.mu.Unlock()
	live, now := h.heap.read()
	if h.last == 0 || now != h.last {
		return // over, or somebody else's from here on
	}
	h.stores = slices.DeleteFunc(h.stores, func(p weak.Pointer[store.Store]) bool { return p.Value() == nil })
	if len(h.stores) == 0 {
		h.end()
		return
	}
	// Some are there twice: a new instance goes on with the stores of the one before.
	kept, seen := int64(0), map[*store.Store]bool{}
	for _, p := range h.stores {
		if s := p.Value(); s != nil && !seen[s] {
			seen[s] = true
			kept += s.Bytes()
		}
	}
	// Setting it stops the program for a moment.
	if want := percentFor(live, kept, h.base); want < now*9/10 || want > now*11/10 {
		h.heap.set(want)
		h.last = want
	}
	h.watch()
}

// percentFor is the GOGC at which a heap of live bytes, of which kept have no
// pointers, grows by base percent of the rest.
func percentFor(live, kept int64, base int) int {
	rest := max(live-kept, minHeadroom)
	if rest >= live {
		return base
	}
	return max(1, int(int64(base)*rest/live))
}

// goHeap is Go's.
type goHeap struct{}

func (goHeap) read() (live int64, percent int) {
	s := []metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/gc/gogc:percent"}}
	metrics.Read(s)
	// GOGC=off is the largest number there.
	if p := s[1].Value.Uint64(); p < 1<<31 {
		percent = int(p)
	}
	return int64(s[0].Value.Uint64()), percent
}

func (goHeap) set(percent int) { debug.SetGCPercent(percent) }
