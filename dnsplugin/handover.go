package dnsplugin

import (
	"reflect"
	"strings"
	"sync"

	"github.com/coredns/caddy"
)

// On a reload the next instance takes over the stores of the old one if it has
// the same configuration. The stores have their own locks, so both instances may
// use them until the old one has ended. No entry is copied, and there is no
// second cache in memory.

// handoverSet holds the caches that a reload is about to replace.
type handoverSet struct {
	mu      sync.Mutex // guards byBlock; held for map operations
	byBlock map[string]*Cache
}

// blockOf returns a name for the server block of a directive.
func blockOf(directive string, c *caddy.Controller) string {
	return directive + " " + strings.Join(c.ServerBlockKeys, " ")
}

func (h *handoverSet) offer(block string, c *Cache) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.byBlock[block] = c
}

func (h *handoverSet) withdraw(block string, c *Cache) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.byBlock[block] == c {
		delete(h.byBlock, block)
	}
}

// take makes c use the stores that are offered for block. It reports false if
// none are, or if their entries were stored under other rules than c's.
func (h *handoverSet) take(block string, c *Cache) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	old := h.byBlock[block]
	if old == nil {
		return false
	}
	delete(h.byBlock, block)
	was, is := old.cfg, c.cfg
	was.FastPath, was.Coalesce, was.Warm, was.Control = is.FastPath, is.Coalesce, is.Warm, is.Control
	if !reflect.DeepEqual(was, is) {
		return false
	}
	c.sides.TakeOver(old.sides)
	return true
}
