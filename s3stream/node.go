package s3stream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/penstock/penstock/s3stream/internal/ring"
	"github.com/penstock/penstock/s3stream/internal/wire"
)

// node is the half of leader and worker that serves children: it sends what
// comes into its ring to each of them.
type node struct {
	life  *run
	job   string
	items *items
	ring  *ring.Ring
	stall time.Duration
	log   *slog.Logger
	names []string // by node number, for messages
	// again makes a reader of items that the ring no longer has; nil at a
	// worker, which sends such a child on to its next backup.
	again func(from uint64) *again
	// detached is told of a child that was cut off because it took nothing.
	detached func(child int, why error)
	// moved has a token when a child's progress or the number of children has
	// changed.
	moved chan struct{}

	mu       sync.Mutex // guards what follows
	children map[uint32]*child
	seen     map[uint32]bool // children that came at least once, or are lost
	news     chan struct{}   // closed and replaced when seen grows
}

// child is one connected child.
type child struct {
	n    *node
	id   uint32
	conn *wire.Conn
	gone chan struct{} // closed when its goroutines have ended

	moved atomic.Bool // it went on, or has an excuse, since watch last looked

	mu  sync.Mutex // guards cur
	cur *ring.Cursor
}

// orphanShare of the stall timeout is how long a parent keeps what the children
// of a lost child lack: 2 s of the default 10. They notice a closed connection
// at once and need some round trips to come; a silent one is noticed on both
// sides at about the same time.
const orphanShare = 5

// batchBytes bounds one write to a child: one default block, or many small items.
const batchBytes = 1 << 20

func (n *node) name(id uint32) string {
	if int(id) < len(n.names) {
		return n.names[id]
	}
	return fmt.Sprintf("node %d", id)
}

// serve runs a child's data connection until the child has everything, leaves
// or fails. It owns the connection.
func (n *node) serve(ctx context.Context, conn *wire.Conn, req wire.Request, welcome func() error) {
	defer conn.Close()
	if f := n.refusal(req); f != nil {
		wire.Refuse(conn, f)
		return
	}
	c := &child{n: n, id: req.Node, conn: conn, gone: make(chan struct{})}
	defer close(c.gone)
	n.replace(c)
	var catchUp *again
	cur, err := n.ring.Attach(req.From, true)
	if errors.Is(err, ring.ErrGone) && n.again != nil {
		catchUp, err = n.again(req.From), nil
	}
	if err != nil {
		n.remove(c)
		if errors.Is(err, ring.ErrGone) {
			err = errGone
		}
		wire.Refuse(conn, failureOf(err))
		return
	}
	c.cur = cur
	if err = welcome(); err == nil {
		n.arrived(req.Node)
		err = c.run(ctx, catchUp)
	}
	n.remove(c)
	c.leave(ctx, err)
}

func (n *node) refusal(req wire.Request) *wire.Failure {
	switch {
	case req.Job != n.job:
		return &wire.Failure{Code: "job", Message: "this is another job: an old worker is still running, or the address was reused"}
	case req.Node == 0 || int(req.Node) >= len(n.names):
		return &wire.Failure{Code: "job", Message: fmt.Sprintf("no worker of this job has number %d", req.Node)}
	case req.From > n.items.total():
		return &wire.Failure{Code: "job", Message: fmt.Sprintf("position %d is beyond the end of the job", req.From)}
	}
	return nil
}

// replace makes c the connection of its node. An earlier one is dead, whatever
// TCP thinks of it: its owner has just dialled again.
func (n *node) replace(c *child) {
	n.mu.Lock()
	old := n.children[c.id]
	n.children[c.id] = c
	n.mu.Unlock()
	if old != nil {
		old.conn.Close()
		<-old.gone
	}
}

func (n *node) remove(c *child) {
	n.mu.Lock()
	if n.children[c.id] == c {
		delete(n.children, c.id)
	}
	n.mu.Unlock()
	n.poke()
}

func (n *node) poke() {
	select {
	case n.moved <- struct{}{}:
	default:
	}
}

// arrived notes that a child came, or never will.
func (n *node) arrived(id uint32) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.seen[id] {
		n.seen[id] = true
		close(n.news)
		n.news = make(chan struct{})
	}
}

// lost notes that a node left the job, and drops its connection if a dead host
// has not done so.
func (n *node) lost(id uint32) {
	n.arrived(id)
	n.mu.Lock()
	c := n.children[id]
	n.mu.Unlock()
	if c != nil {
		c.conn.Close()
	}
}

// awaitChildren waits until each planned child has come once, so that the
// first block finds all of them and none has to ask for it again. It gives up
// after half the stall timeout, lest our own parent give us up; a late child
// then starts from what the ring has.
func (n *node) awaitChildren(ctx context.Context, ids []int) {
	timeout := time.NewTimer(n.stall / 2)
	defer timeout.Stop()
	for {
		n.mu.Lock()
		missing, news := 0, n.news
		for _, id := range ids {
			if !n.seen[uint32(id)] {
				missing++
			}
		}
		n.mu.Unlock()
		if missing == 0 {
			return
		}
		select {
		case <-news:
		case <-ctx.Done():
			return
		case <-timeout.C:
			n.log.Warn("starting without some children", "missing", missing, "waited", n.stall/2)
			return
		}
	}
}

// run sends to the child from one goroutine, listens to it in a second, and
// from a third lets it know that we are alive and watches that it goes on.
func (c *child) run(ctx context.Context, catchUp *again) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	unhook := context.AfterFunc(ctx, func() { c.conn.Close() })
	defer unhook()
	c.conn.SetWriteTimeout(c.n.stall)
	var wg sync.WaitGroup
	wg.Go(func() { cancel(contain(c.listen)) })
	wg.Go(func() { cancel(c.watch(ctx)) })
	err := c.send(ctx, catchUp)
	cancel(err)
	c.conn.Close()
	wg.Wait()
	// The first failure explains the other; a reader's "closed by us" does not.
	return context.Cause(ctx)
}

// errServed ends a child's connection when it has everything.
var errServed = errors.New("the child has everything")

// send writes items until the child has all of them.
func (c *child) send(ctx context.Context, catchUp *again) error {
	if catchUp != nil {
		defer catchUp.close()
		if err := c.sendAgain(ctx, catchUp); err != nil {
			return err
		}
	}
	batch := make([]ring.Item, 16)
	frames := make([]wire.Frame, 16)
	for {
		n, err := c.cur.Next(ctx, batch, batchBytes)
		if errors.Is(err, io.EOF) {
			<-ctx.Done() // the child closes when it has read everything
			return context.Cause(ctx)
		}
		if err != nil {
			return err
		}
		for i := range n {
			frames[i] = batch[i].Frame
		}
		err = c.conn.Write(frames[:n]...)
		for i := range n {
			batch[i].Release()
			batch[i], frames[i] = ring.Item{}, wire.Frame{}
		}
		if err != nil {
			return c.writeError(err)
		}
	}
}

// sendAgain sends items that are read anew until the ring has the next one.
func (c *child) sendAgain(ctx context.Context, a *again) error {
	c.n.log.Warn("reading again for a worker that fell behind", "worker", c.n.name(c.id), "item", a.next)
	for {
		cur, err := c.n.ring.Attach(a.next, true)
		if err == nil {
			c.mu.Lock()
			c.cur = cur
			c.mu.Unlock()
			return nil
		}
		if !errors.Is(err, ring.ErrGone) {
			return err
		}
		it, err := a.item(ctx)
		if err != nil {
			return err
		}
		err = c.conn.Write(it.Frame)
		it.Release()
		if err != nil {
			return c.writeError(err)
		}
	}
}

// writeError tells a child that takes nothing from one that is gone.
func (c *child) writeError(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("%w: it took no data for %v", ErrDetached, c.n.stall)
	}
	return plain(err)
}

// listen reads what the child says of itself until it closes.
func (c *child) listen() error {
	var have uint64
	for {
		h, err := c.conn.ReadHeader()
		if err != nil && have == c.n.items.total() {
			return errServed // however it closed
		}
		if err != nil {
			return plain(err)
		}
		switch h.Type {
		case wire.Error:
			return fromWire(wire.ReadFailure(c.conn, h))
		case wire.Progress:
		default:
			return fmt.Errorf("%w: unexpected %s", wire.ErrHeader, h.Type)
		}
		p, err := c.conn.ReadSmall(h)
		if err != nil {
			return err
		}
		s, err := wire.ParseState(p)
		if err != nil {
			return err
		}
		if err := c.progress(s); err != nil {
			return err
		}
		have = s.Have
	}
}

func (c *child) progress(s wire.State) error {
	c.mu.Lock()
	cur := c.cur
	c.mu.Unlock()
	if s.Waiting {
		c.moved.Store(true)
		// It does not read because a child of its own does not. That one has
		// its own clock, and then ours goes on.
		if err := c.conn.SetWriteDeadline(time.Now().Add(c.n.stall)); err != nil {
			return err
		}
	}
	if cur == nil {
		return nil // still catching up, outside the ring
	}
	ok, on := cur.Ack(s.Have, s.Low, int(s.Children))
	if !ok {
		return fmt.Errorf("%w: it says that it has %d", wire.ErrHeader, s.Have)
	}
	if on {
		c.moved.Store(true)
	}
	c.n.poke()
	return nil
}

// watch tells the child three times in a stall timeout that we live, and ends
// its connection when we have waited for it for that long: when the ring is
// full because of it alone and it neither went on nor had one of its own
// children to wait for.
func (c *child) watch(ctx context.Context) error {
	t := time.NewTicker(c.n.stall / watchShare)
	defer t.Stop()
	for idle := 0; idle <= watchShare; {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-t.C:
		}
		c.mu.Lock()
		cur := c.cur
		c.mu.Unlock()
		if cur != nil && cur.Blocks() && !c.moved.Swap(false) {
			idle++
		} else {
			idle = 0
		}
		// An error shows in the other two goroutines. A write that is stuck
		// has its own deadline.
		_ = c.conn.WriteSmall(wire.Ping, 0, nil)
	}
	return fmt.Errorf("%w: it took no data for %v", ErrDetached, c.n.stall)
}

// watchShare of the stall timeout is the pace of watch.
const watchShare = 3

// leave ends the child's place in the ring and tells whom it concerns.
func (c *child) leave(ctx context.Context, err error) {
	served := errors.Is(err, errServed)
	if c.cur != nil {
		grace := c.n.stall / orphanShare
		if served || ctx.Err() != nil {
			grace = 0
		}
		c.cur.Leave(grace)
		c.n.poke()
	}
	if served || ctx.Err() != nil || c.n.life.over() {
		return
	}
	e := &Error{Op: "send", Peer: c.n.name(c.id), Err: err}
	c.n.log.Warn("child left", "err", e)
	if errors.Is(err, ErrDetached) && c.n.detached != nil {
		c.n.detached(int(c.id), e)
	}
}
