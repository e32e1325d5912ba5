package s3stream

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/penstock/penstock/internal/budget"
	"github.com/penstock/penstock/internal/printable"
	"github.com/penstock/penstock/s3stream/internal/topology"
	"github.com/penstock/penstock/s3stream/internal/wire"
)

// workerRun is a worker whose job has started.
type workerRun struct {
	life     *run
	w        *Worker
	start    *startMsg
	plan     topology.Plan
	ctrl     *wire.Conn
	node     *node
	items    *items
	delivery *delivery
	budget   *budget.Budget
	began    time.Time
	progress *progressMeter // used by tell, and by run when tell has ended
	bye      chan struct{}  // closed when the leader has let us go
	ready    sync.Once      // waits for the planned children
	sums     *leaderSums

	mu        sync.Mutex // guards what follows
	lost      map[int]bool
	parent    int        // the node at the other end of upstream
	upstream  *wire.Conn // nil between two parents
	repairs   []Repair
	elsewhere bool          // received from another node than the planned parent
	parents   []stretch     // which parent sent which items, in order; those of finished objects are dropped
	took      time.Duration // until everything was delivered; 0 before
	hash      string        // of what was delivered; "" before
}

// statusEvery is how often the leader and Progress receive our state.
const statusEvery = 250 * time.Millisecond

// run does the job. When it returns, its goroutines have ended, its
// connections are closed, and no unfinished file is left.
func (w *workerRun) run(ctx context.Context, l net.Listener) (*Report, error) {
	life, ctx, stop := begin(ctx)
	w.life, w.node.life = life, life
	cur, err := w.node.ring.Attach(0, false)
	if err != nil {
		return nil, err // only a closed ring refuses its first cursor
	}
	delivered := make(chan struct{})
	life.wg.Go(func() {
		acceptLoop(ctx, l, w.w.opts.Token, w.w.opts.Log, &life.wg, func(c *wire.Conn, req wire.Request, welcome func() error) {
			if req.Role != wire.Child {
				wire.Refuse(c, &wire.Failure{Code: "job", Message: "this is a worker, not the leader"})
				c.Close()
				return
			}
			w.node.serve(ctx, c, req, welcome)
		})
	})
	life.spawn(func() error { return w.control() })
	life.wg.Go(func() { w.tell(ctx) })
	life.spawn(func() error { return w.pull(ctx) })
	life.spawn(func() error {
		if err := w.delivery.run(ctx, cur); err != nil {
			return err
		}
		close(delivered)
		return nil
	})

	err = w.await(delivered)
	if err != nil {
		wire.Refuse(w.ctrl, failureOf(err))
	}
	w.ctrl.Close()
	stop()
	w.node.ring.Close(context.Canceled)
	w.delivery.sink.close()
	if err != nil {
		w.progress.set(w.delivery.bytes.Load())
		return nil, err
	}
	w.progress.done(w.delivery.bytes.Load())
	return w.report(), nil
}

// await returns when the leader has let us go, or with the first failure.
func (w *workerRun) await(delivered <-chan struct{}) error {
	select {
	case <-delivered:
	case <-w.life.failed:
		return w.life.reason()
	}
	w.mu.Lock()
	w.took, w.hash = time.Since(w.began), w.delivery.digest.String()
	w.mu.Unlock()
	_ = w.ctrl.WriteJSON(wire.Finished, w.status()) // a broken connection shows in control
	select {
	case <-w.bye:
		return nil
	case <-w.life.failed:
	}
	// Everything is delivered and proven. A leader that dies now takes nothing
	// from us; what our children still lack fails with them.
	err := w.life.reason()
	if isLeaderLost(err) {
		w.w.opts.Log.Warn("leader lost after everything was delivered", "err", err)
		return nil
	}
	return err
}

// control reads what the leader says until it says goodbye.
func (w *workerRun) control() error {
	for {
		_ = w.ctrl.SetReadDeadline(time.Now().Add(w.start.Stall))
		h, err := w.ctrl.ReadHeader()
		if err != nil {
			return w.w.leaderLost(err)
		}
		switch h.Type {
		case wire.Ping:
		case wire.Lost:
			if h.Flags&wire.FlagElsewhere != 0 {
				w.node.arrived(h.Object) // awaitChildren waits for it no longer
				continue
			}
			w.memberLost(h.Object, h.Flags&wire.FlagAlive != 0)
		case wire.Sums:
			p, err := w.ctrl.ReadSmall(h)
			if err != nil {
				return w.w.leaderLost(err)
			}
			sums, err := wire.ParseSums(p)
			if err == nil {
				err = w.sums.add(h.Object, sums, len(w.items.m.Objects))
			}
			if err != nil {
				return &Error{Op: "join", Peer: w.w.opts.Leader, Err: err}
			}
		case wire.Error:
			return w.w.refused(wire.ReadFailure(w.ctrl, h))
		case wire.Bye:
			close(w.bye)
			return nil
		default:
			return fmt.Errorf("%w: unexpected %s from the leader", wire.ErrHeader, h.Type)
		}
	}
}

// stretch is a run of items from one parent.
type stretch struct {
	first  uint64
	parent int
}

// proof waits for what the leader read of the object, and names the parents that sent it.
func (w *workerRun) proof(ctx context.Context, object int) (sum wire.ObjectSum, from string, err error) {
	if sum, err = w.sums.take(ctx, object); err != nil {
		return sum, "", err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	first, end := w.items.first[object], w.items.first[object+1]
	var names []string
	last := 0 // the stretch that the next object begins in, or before
	for i, s := range w.parents {
		if s.first < end && (i+1 == len(w.parents) || w.parents[i+1].first > first) {
			names = append(names, w.node.name(uint32(s.parent)))
		}
		if s.first <= end {
			last = i
		}
	}
	w.parents = slices.Delete(w.parents, 0, last)
	return sum, strings.Join(slices.Compact(names), " and "), nil
}

// memberLost drops a node that the leader has given up, or that is alive but
// was cut off: then only as a parent.
func (w *workerRun) memberLost(id uint32, alive bool) {
	if !alive {
		w.node.lost(id)
	}
	w.mu.Lock()
	w.lost[int(id)] = true
	up := w.upstream
	if w.parent != int(id) {
		up = nil
	}
	w.mu.Unlock()
	if up != nil {
		up.Close() // pull then asks the next one
	}
}

// tell sends our status to the leader, and so also that we live.
func (w *workerRun) tell(ctx context.Context) {
	t := time.NewTicker(min(statusEvery, w.start.Stall/3))
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		_ = w.ctrl.WriteJSON(wire.Status, w.status())
		w.progress.set(w.delivery.bytes.Load())
	}
}

func (w *workerRun) tellDetached(child int, why error) {
	_ = w.ctrl.WriteJSON(wire.Detached, detachedMsg{Node: child, Reason: why.Error()})
}

func (w *workerRun) status() statusMsg {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := statusMsg{
		Bytes: w.delivery.bytes.Load(), Objects: w.delivery.objects.Load(),
		Hash: w.hash, Elapsed: w.took, Repairs: len(w.repairs),
		Elsewhere: w.elsewhere,
	}
	for _, r := range w.repairs[max(0, len(w.repairs)-maxTrouble):] {
		s.Trouble = append(s.Trouble, printable.Line(r.Err.Error(), maxReason))
	}
	return s
}

func (w *workerRun) report() *Report {
	w.mu.Lock()
	defer w.mu.Unlock()
	return &Report{
		Objects: len(w.items.m.Objects), Bytes: w.delivery.bytes.Load(), Elapsed: w.took,
		Hash: w.hash, Topology: w.plan.Shape().String(), Repairs: slices.Clone(w.repairs),
	}
}
