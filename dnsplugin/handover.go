package dnsplugin

import (
	"reflect"
	"strings"
	"sync"

	"github.com/coredns/caddy"
)

// On a reload the next instance goes on with the entries of the one before, if
// it is configured alike: the stores are bound by their own locks, not by an
// instance, so both may use them until the old one has ended. Nothing is
// copied, and no second cache takes memory.

// handovers are the caches of this process that are about to be replaced.
var handovers = handoverSet{byBlock: map[string]*Cache{}}

type handoverSet struct {
	mu      sync.Mutex // guards byBlock; held for map operations
	byBlock map[string]*Cache
}

// blockOf names the server block that a directive stands in.
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

// take lets c go on with what is offered for block. It reports false if there
// is nothing, or if entries were stored under other rules than c's.
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
