package front

import (
	"time"

	"github.com/coredns/coredns/plugin"
	clog "github.com/coredns/coredns/plugin/pkg/log"

	"github.com/penstock/penstock/dnsplugin/internal/meters"
	"github.com/penstock/penstock/dnsplugin/internal/sides"
)

// Mode says whether there is a fast path, and how loudly its absence is logged.
type Mode int

// The modes.
const (
	ModeAuto Mode = iota // where possible; an info message gives the reason if not
	ModeOn               // where possible; a warning gives the reason if not
	ModeOff
)

// Instance is a cache, as far as the fast path knows it. All fields are set
// before its server starts.
type Instance struct {
	Handler  plugin.Handler // the cache in the plugin chain
	Name     string         // of the directive, for the log
	Mode     Mode
	Workers  int      // sockets; 0 means one for each CPU that Go may use
	Batch    int      // queries taken from a socket at once
	Coalesce int      // queries of one name that may wait for one fetch
	Zones    []string // names to cache, with all names below
	Bypass   []string // zones that never come from the cache
	Sides    *sides.Sides
	Meters   func(server string) *meters.Meters
	Now      func() time.Time

	registry *Registry

	// Guarded by the lock of the registry.
	order    uint64 // ordinal of the instance; later ones are higher
	released bool   // the instance has ended
}

// say logs why there is no fast path, at the level of the mode.
func (c *Instance) say(format string, args ...any) {
	log := clog.NewWithPlugin(c.Name)
	switch c.Mode {
	case ModeOff:
	case ModeOn:
		log.Warningf("No fast path at "+format, args...)
	case ModeAuto:
		log.Infof("No fast path at "+format, args...)
	}
}
