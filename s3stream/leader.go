package s3stream

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/penstock/penstock/internal/budget"
	"github.com/penstock/penstock/internal/ranges"
	"github.com/penstock/penstock/s3stream/internal/ring"
	"github.com/penstock/penstock/s3stream/internal/topology"
	"github.com/penstock/penstock/s3stream/internal/wire"
)

// hedge makes the engine slower to ask twice than by default: a job reads each
// byte once, and a leader that feeds its workers on the same processors looks
// silent without being so. One that is held up while the others get on is asked
// again after the floor.
var hedge = ranges.HedgePolicy{Floor: 300 * time.Millisecond}

// Leader reads each object once and sends it to all workers.
type Leader struct {
	opts LeaderOptions
	l    net.Listener
}

// NewLeader checks the options and starts to listen for workers. Run or Close
// ends that.
func NewLeader(opts LeaderOptions) (*Leader, error) {
	if err := opts.Validate(); err != nil {
		return nil, err
	}
	opts = opts.withDefaults()
	var lc net.ListenConfig
	l, err := lc.Listen(context.Background(), "tcp", opts.Listen)
	if err != nil {
		return nil, err
	}
	return &Leader{opts: opts, l: l}, nil
}

// Addr is the address that workers dial, with the port that was really taken.
func (l *Leader) Addr() string { return l.l.Addr().String() }

// Close stops listening; only needed without Run.
func (l *Leader) Close() error { return l.l.Close() }

// Run finds the objects, waits for the workers, sends everything and returns
// when each worker has said that it has it, or is lost. The error is
// ErrIncomplete, with a report, when some workers were lost and the others have
// everything. Run returns within a second when ctx ends, and tells the workers
// why. A Leader runs once.
func (l *Leader) Run(ctx context.Context) (*Report, error) {
	defer l.l.Close()
	st, err := openStore(ctx, l.opts.S3)
	if err != nil {
		return nil, err
	}
	defer st.close()
	engine, err := ranges.New(ranges.Options{Budget: budget.New(l.opts.Memory), Hedge: hedge, Retry: l.opts.S3.retry(), Log: l.opts.S3.Log})
	if err != nil {
		return nil, err
	}
	defer engine.Close()
	life, ctx, stop := begin(ctx)
	r := &leaderRun{
		l: l, life: life, store: st, engine: engine, news: make(chan struct{}, 1), node: make(chan struct{}),
	}
	life.wg.Go(func() {
		acceptLoop(ctx, l.l, l.opts.Token, l.opts.Log, &life.wg, func(c *wire.Conn, req wire.Request, welcome func() error) {
			r.accept(ctx, c, req, welcome)
		})
	})
	done := make(chan struct{})
	life.spawn(func() error {
		if err := r.drive(ctx); err != nil {
			return err
		}
		close(done)
		return nil
	})
	select {
	case <-done:
	case <-life.failed:
		err = life.reason()
	}
	r.farewell(err)
	stop()
	if r.serving != nil {
		r.serving.ring.Close(context.Canceled)
	}
	if r.local != nil {
		r.local.sink.close()
	}
	if err != nil {
		return nil, err
	}
	return r.report()
}

// leaderRun is one run of a leader.
type leaderRun struct {
	l      *Leader
	life   *run
	store  *s3Store
	engine *ranges.Engine
	news   chan struct{} // a token when a member came, left or finished

	// Written before node is closed, read after.
	node    chan struct{}
	serving *node
	feed    *feeder
	local   *delivery // the leader's own output; nil without one
	items   *items
	plan    topology.Plan
	job     string
	began   time.Time

	progress *progressMeter // used by drive alone

	mu      sync.Mutex // guards what follows; taken before a member's connection is written to, never during
	members []*member  // in order of joining; in node order once started
	started bool
}

// drive is the leader's job in order.
func (r *leaderRun) drive(ctx context.Context) error {
	m := &manifest{Job: rand.Text(), Epoch: 1, BlockBytes: r.l.opts.BlockBytes}
	found := make(chan error, 1)
	r.life.wg.Go(func() {
		found <- contain(func() (err error) {
			if m.Objects, err = r.store.resolve(ctx, r.l.opts.URIs); err == nil {
				err = m.check()
			}
			return err
		})
	})
	if err := r.gather(ctx, found); err != nil {
		return err
	}
	if err := r.start(ctx, m); err != nil {
		return err
	}
	return r.send(ctx)
}

// gather waits until the objects are known and the workers are there.
func (r *leaderRun) gather(ctx context.Context, found <-chan error) error {
	timeout := time.NewTimer(r.l.opts.Wait)
	defer timeout.Stop()
	want, known, over := r.l.opts.Workers, false, false
	for {
		n, enough := r.assemble(known, over)
		switch {
		case enough:
			return nil
		case over && want > 0:
			return fmt.Errorf("%d of %d workers joined within %v", n, want, r.l.opts.Wait)
		case over && n == 0:
			return fmt.Errorf("no worker joined within %v", r.l.opts.Wait)
		}
		select {
		case err := <-found:
			if err != nil {
				return err
			}
			known, found = true, nil
		case <-r.news:
		case <-timeout.C:
			over = true
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// start plans the broadcast and tells the workers.
func (r *leaderRun) start(ctx context.Context, m *manifest) error {
	r.mu.Lock()
	r.order()
	members := slices.Clone(r.members)
	r.mu.Unlock()
	shape, err := topology.ParseShape(r.l.opts.Topology)
	if err != nil {
		return err
	}
	load := topology.Load{Bytes: m.Bytes(), BlockBytes: m.BlockBytes}
	if r.plan, err = topology.Make(len(members), shape, load); err != nil {
		return err
	}
	if out := r.l.opts.Output; out.count() > 0 {
		s, err := out.open(m)
		if err != nil {
			return &Error{Op: "deliver", Err: err}
		}
		r.local = newDelivery(newItems(m), s)
	}
	mem := divide(r.l.opts.Memory, m.BlockBytes)
	r.items, r.job = newItems(m), m.Job
	r.feed = newFeeder(r.items, r.store, r.engine, mem)
	r.feed.digests = r.l.opts.Digest == DigestSHA256
	r.serving = &node{
		life: r.life, job: m.Job, items: r.items, ring: ring.New(mem.slots), stall: r.l.opts.StallTimeout, log: r.l.opts.Log, names: []string{"leader"},
		moved: make(chan struct{}, 1), children: make(map[uint32]*child), seen: make(map[uint32]bool), news: make(chan struct{}),
		again:    func(from uint64) *again { return &again{f: r.feed, next: from} },
		detached: r.detached,
	}
	s := startMsg{
		Job: m.Job, Epoch: m.Epoch, BlockBytes: m.BlockBytes, Objects: len(m.Objects), Bytes: m.Bytes(),
		Stall: r.l.opts.StallTimeout, Shape: r.plan.Shape().String(), Digest: r.l.opts.Digest,
	}
	least := mem.slots
	for _, x := range members {
		least = min(least, workerSlots(x.req.Mem, m.BlockBytes))
		s.Members = append(s.Members, memberMsg{Name: x.req.Name, Addr: x.req.Addr})
		r.serving.names = append(r.serving.names, x.String())
	}
	s.Report = uint64(max(1, least/reportShare)) // a worker with too little memory refuses
	pieces, err := encodeObjects(m.Objects)
	if err != nil {
		return err
	}
	if b, err := json.Marshal(s); err != nil || len(b) > wire.MaxControl-64 { // the node's number is still to come
		return fmt.Errorf("the names and addresses of %d workers do not fit one message of %d bytes: give them shorter names", len(members), wire.MaxControl)
	}
	r.began, r.progress = time.Now(), newProgressMeter(r.l.opts.Progress, m)
	close(r.node)
	var wg sync.WaitGroup
	for i, x := range members {
		// From here on a member has something to say; see listen.
		_ = x.conn.SetReadDeadline(r.began.Add(s.Stall))
		msg := s
		msg.Node = uint32(i + 1)
		wg.Go(func() { x.sendStart(msg, pieces) })
	}
	wg.Wait()
	for _, x := range members {
		r.life.wg.Go(func() { r.tellSums(ctx, x) })
	}
	r.tellLost(nil) // those that left while we planned
	return ctx.Err()
}

// pieceBytes of JSON for one part of the manifest: well below a control
// frame's limit, however the last key of a piece is escaped.
const pieceBytes = wire.MaxControl / 4

// encodeObjects cuts the manifest into frames.
func encodeObjects(objects []Object) ([][]byte, error) {
	var pieces [][]byte
	for len(objects) > 0 {
		n, size := 0, 0
		for n < len(objects) && size < pieceBytes {
			o := &objects[n]
			// Each byte of a string takes at most six in JSON.
			size += 6*(len(o.Bucket)+len(o.Key)+len(o.Name)+len(o.VersionID)+len(o.ETag)) + 256
			n++
		}
		var m objectsMsg
		for _, o := range objects[:n] {
			m.Objects = append(m.Objects, newObjectMsg(o))
		}
		p, err := json.Marshal(m)
		if err != nil {
			return nil, err
		}
		pieces = append(pieces, p)
		objects = objects[n:]
	}
	return pieces, nil
}

// send feeds the ring and returns when every worker has everything or is lost.
func (r *leaderRun) send(ctx context.Context) error {
	rg := r.serving.ring
	local := make(chan error, 1)
	if r.local != nil {
		cur, err := rg.Attach(0, false)
		if err != nil {
			return err
		}
		r.life.wg.Go(func() { local <- contain(func() error { return r.local.run(ctx, cur) }) })
	} else {
		local <- nil
	}
	r.serving.awaitChildren(ctx, r.plan.Children(topology.Leader))
	fed := make(chan error, 1)
	feedCtx, stopFeed := context.WithCancelCause(ctx)
	defer stopFeed(nil)
	r.life.wg.Go(func() {
		err := contain(func() error { return r.feed.run(feedCtx, rg.Put) })
		if err == nil {
			rg.Finish()
		}
		fed <- err
	})
	tick := time.NewTicker(statusEvery)
	defer tick.Stop()
	wait := 2 // for the feed and the local output
	for {
		settled := r.settled()
		if settled && wait == 0 {
			r.progress.done(r.feed.read.Load())
			return nil
		}
		if settled && r.local == nil {
			stopFeed(errAllLost) // no effect on a feed that has ended
		}
		select {
		case err := <-fed:
			if errors.Is(err, errAllLost) {
				err = nil
			}
			if err != nil {
				return err
			}
			fed, wait = nil, wait-1
		case err := <-local:
			if err != nil {
				return err
			}
			local, wait = nil, wait-1
		case <-r.news:
		case <-r.serving.moved: // children's progress matters only to a relay
		case now := <-tick.C:
			r.progress.set(r.feed.read.Load())
			r.giveUp(now, fed == nil)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// errAllLost stops the feed when nobody is left to send to.
var errAllLost = errors.New("every worker was lost")

// report is the end of a run that was not aborted.
func (r *leaderRun) report() (*Report, error) {
	st := r.engine.Stats()
	rep := &Report{
		Objects: len(r.items.m.Objects), Bytes: r.items.m.Bytes(), Elapsed: time.Since(r.began), Hash: r.feed.hash(),
		StoreRequests: st.Requests, StoreBytes: st.Received, Reread: r.feed.reread.Load(), Topology: r.plan.Shape().String(),
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	failed := 0
	var first error
	for i, m := range r.members {
		w := m.report(i+1, rep.Hash)
		if w.Err == nil {
			w.Err = m.wrongHash(rep.Hash)
		}
		if w.Err != nil {
			failed++
			if first == nil {
				first = fmt.Errorf("%s: %w", m, w.Err)
			}
		}
		rep.Workers = append(rep.Workers, w)
	}
	if failed > 0 {
		return rep, fmt.Errorf("%w: %d of %d failed, the first is %w", ErrIncomplete, failed, len(r.members), first)
	}
	return rep, nil
}
