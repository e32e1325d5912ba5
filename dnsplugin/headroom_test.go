package dnsplugin

import (
	"runtime"
	"sync"
	"testing"
)

// testHeap is a heap whose values the test sets.
type testHeap struct {
	mu      sync.Mutex // guards all below
	live    int64
	percent int
	reads   int
}

func (h *testHeap) read() (int64, int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.reads++
	return h.live, h.percent
}

func (h *testHeap) set(percent int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.percent = percent
}

func TestHeadroomIgnoresEntries(t *testing.T) {
	const mb = 1 << 20
	for _, tt := range []struct {
		live, kept int64
		base, want int
	}{
		{8 * mb, 5 * mb, 100, 100},      // small
		{64 * mb, 16 * mb, 100, 75},     // by the memory without the entries
		{200 * mb, 195 * mb, 100, 4},    // by the least
		{200 * mb, 300 * mb, 100, 4},    // the store has grown since the collection
		{1000 * mb, 500 * mb, 200, 100}, // of the base
		{1 << 40, 1<<40 - 5*mb, 100, 1}, // never off
		{800 * mb, 0, 100, 100},         // nothing kept
		{0, 0, 100, 100},                // before the first collection
	} {
		if got := percentFor(tt.live, tt.kept, tt.base); got != tt.want {
			t.Errorf("%d MB with %d kept: %d, want %d", tt.live/mb, tt.kept/mb, got, tt.want)
		}
	}
}

func TestHeadroomFollowsTheStores(t *testing.T) {
	th := &testHeap{live: 1 << 30, percent: 100}
	h := &headroom{heap: th}
	c := cacheOf(t, Config{MaxMem: 1 << 30}, says(nil))
	h.add(c)
	h.add(c) // as a new instance that takes over the entries does
	adjusted := func(want int) {
		t.Helper()
		h.adjust()
		if th.percent != want {
			t.Errorf("GOGC %d, want %d", th.percent, want)
		}
	}
	kept := c.sides.Success.Store.Bytes() + c.sides.Denial.Store.Bytes()
	adjusted(100) // by a few percent it is not worth it
	th.live = kept + 40<<20
	adjusted(percentFor(th.live, kept, 100))
	if th.percent > 80 {
		t.Errorf("GOGC %d with %d bytes kept", th.percent, kept)
	}
	h.remove(c)
	before := th.percent
	adjusted(before)
	h.remove(c)
	if th.percent != 100 {
		t.Errorf("GOGC %d in the end", th.percent)
	}
	adjusted(100) // a collection after the end
}

func TestHeadroomKeepsAnExplicitGOGC(t *testing.T) {
	c := cacheOf(t, Config{MaxMem: 1 << 30}, says(nil))
	given := &testHeap{live: c.sides.Success.Store.Bytes(), percent: 90}
	h := &headroom{heap: given}
	h.add(c)
	runtime.GC()
	h.remove(c)
	if given.percent != 90 || given.reads != 2 {
		t.Errorf("GOGC %d, given as 90; looked at %d times", given.percent, given.reads)
	}
	th := &testHeap{live: 1 << 30, percent: 100}
	h = &headroom{heap: th}
	h.add(c)
	th.set(50)
	h.adjust()
	h.remove(c)
	if th.percent != 50 {
		t.Errorf("GOGC %d, set to 50", th.percent)
	}
}

// After each collection, and no more often, the target is looked at.
func TestHeadroomAdjustsAfterCollections(t *testing.T) {
	th := &testHeap{live: 1 << 30, percent: 100}
	h := &headroom{heap: th}
	c := cacheOf(t, Config{}, says(nil))
	h.add(c)
	defer h.remove(c)
	for n := 2; n < 5; n++ {
		runtime.GC()
		until(t, "a look after the collection", func() bool {
			th.mu.Lock()
			defer th.mu.Unlock()
			return th.reads >= n
		})
	}
	if live, percent := (goHeap{}).read(); live <= 0 || percent <= 0 {
		t.Errorf("%d bytes live, GOGC %d", live, percent)
	}
}
