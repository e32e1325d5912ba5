//go:build amd64 || arm64

package fastpath

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
)

// Group is our part of the sockets of one address. Make one with Listen.
type Group struct {
	opts    Options
	workers []*worker
	steered error // nil: the kernel deals all packets to us
	running sync.WaitGroup
	once    sync.Once
	closed  error
	handler atomic.Pointer[holder]
}

// Listen binds the sockets of a group to addr, a host and port as for
// net.ListenPacket, and starts the workers. The address must be free, or bound
// with SO_REUSEPORT by sockets of the same user only.
func Listen(addr string, opts Options, h Handler) (*Group, error) {
	if err := opts.Validate(); err != nil {
		return nil, err
	}
	if _, port, err := net.SplitHostPort(addr); err != nil || port == "" || port == "0" {
		return nil, fmt.Errorf("fastpath: address %q has no fixed port: sockets of a group need the same", addr)
	}
	g := &Group{opts: opts.withDefaults()}
	g.handler.Store(&holder{h})
	for i := range g.opts.Workers {
		s, err := listen(addr)
		if err != nil {
			for _, w := range g.workers {
				_ = w.sock.close()
			}
			return nil, fmt.Errorf("fastpath: socket %d of %d at %s: %w", i+1, g.opts.Workers, addr, err)
		}
		w := &worker{index: i, group: g, sock: s, batch: newBatch(s, g.opts.Batch, s.wildcard)}
		w.batch.worker = w
		g.workers = append(g.workers, w)
	}
	g.steered = errors.New("not asked for")
	if opts.Before >= 0 {
		g.steered = steer(g.workers[0].sock.fd, opts.Before, len(g.workers))
	}
	for _, w := range g.workers {
		g.running.Add(1)
		go w.run()
	}
	return g, nil
}

// Swap makes h the handler. A batch that is being served is finished by the
// handler before.
func (g *Group) Swap(h Handler) { g.handler.Store(&holder{h}) }

// Workers is the number of workers.
func (g *Group) Workers() int { return len(g.workers) }

// Steered reports whether the kernel deals all packets to our sockets, and why not.
func (g *Group) Steered() (bool, error) { return g.steered == nil, g.steered }

// Counts adds up what the workers have seen.
func (g *Group) Counts() Counts {
	var c Counts
	for _, w := range g.workers {
		c.Received += w.counts.received.Load()
		c.Sent += w.counts.sent.Load()
		c.Unsent += w.counts.unsent.Load()
		c.Batches += w.counts.batches.Load()
	}
	return c
}

// Close ends the workers and closes their sockets. Packets that are queued in
// them are served first, but not those that come for ever.
func (g *Group) Close() error {
	g.once.Do(func() {
		for _, w := range g.workers {
			w.sock.wake()
		}
		g.running.Wait()
		var errs []error
		for _, w := range g.workers {
			errs = append(errs, w.ended)
		}
		g.closed = errors.Join(errs...)
	})
	return g.closed
}

// zoneName is the name of a network interface as it stands in an address.
func zoneName(index uint32) string {
	if ifi, err := net.InterfaceByIndex(int(index)); err == nil {
		return ifi.Name
	}
	return strconv.FormatUint(uint64(index), 10)
}
