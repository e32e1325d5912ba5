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

// Group is the set of UDP sockets of the fast path at one address. Make one
// with Listen.
type Group struct {
	opts      Options
	workers   []*worker
	part      atomic.Pointer[part] // nil if not steered
	unsteered error                // why part is nil
	running   sync.WaitGroup
	once      sync.Once
	closed    error
	handler   atomic.Pointer[holder]
	failed    atomic.Pointer[failure] // of the worker that failed last
	taken     atomic.Uint64           // unsent replies that TakeUnsent has returned
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
	if err := tryCalls(); err != nil {
		return nil, err
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
		w := &worker{index: i, group: g, sock: s, batch: newBatch(s, g.opts.Batch, s.wildcard), seat: &seat{control: s.control}}
		w.batch.worker = w
		g.workers = append(g.workers, w)
	}
	for _, w := range g.workers {
		g.running.Add(1)
		go w.serveBatches()
	}
	g.unsteered = errNotAsked
	if !opts.Unsteered {
		var seats []*seat
		for _, w := range g.workers {
			seats = append(seats, w.seat)
		}
		var p *part
		if p, g.unsteered = steerings.join(false, seats, opts.Report); p != nil {
			g.part.Store(p)
		}
	}
	return g, nil
}

// failure is the error that ended a worker.
type failure struct{ error }

// Failed returns the error that ended a worker, or nil if all are running.
func (g *Group) Failed() error {
	if f := g.failed.Load(); f != nil {
		return f.error
	}
	return nil
}

// TakeUnsent returns how many replies the kernel has rejected since the
// previous call.
func (g *Group) TakeUnsent() uint64 {
	all := g.Counts().Unsent
	return all - g.taken.Swap(all)
}

// Swap makes h the handler of the next batches. The previous handler finishes
// the batch that it is serving.
func (g *Group) Swap(h Handler) { g.handler.Store(&holder{h}) }

// Workers returns the number of workers.
func (g *Group) Workers() int { return len(g.workers) }

// Steered reports whether the kernel sends all packets to the sockets of the
// group now, and the reason if it does not.
func (g *Group) Steered() (bool, error) {
	p := g.part.Load()
	if err := g.Failed(); err != nil || p == nil {
		return false, errors.Join(err, g.unsteered)
	}
	err := steerings.steered(p)
	return err == nil, err
}

// Counts returns the sums over all workers.
func (g *Group) Counts() Counts {
	var c Counts
	for _, w := range g.workers {
		c.Received += w.counts.received.Load()
		c.Sent += w.counts.sent.Load()
		c.Unsent += w.counts.unsent.Load() + w.sock.unsent.Load()
		c.Batches += w.counts.batches.Load()
	}
	return c
}

// Close ends the workers and closes their sockets. Up to drainMost packets of
// each socket are served first.
func (g *Group) Close() error {
	g.once.Do(func() {
		if p := g.part.Load(); p != nil {
			var seats []*seat
			for _, w := range g.workers {
				seats = append(seats, w.seat)
			}
			steerings.leave(p, seats)
			defer steerings.left(p)
		}
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

// zoneName returns the name of a network interface for an IPv6 zone.
func zoneName(index uint32) string {
	if ifi, err := net.InterfaceByIndex(int(index)); err == nil {
		return ifi.Name
	}
	return strconv.FormatUint(uint64(index), 10)
}
