package s3stream

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"syscall"
	"time"

	"github.com/penstock/penstock/internal/budget"
	"github.com/penstock/penstock/s3stream/internal/ring"
	"github.com/penstock/penstock/s3stream/internal/topology"
	"github.com/penstock/penstock/s3stream/internal/wire"
)

// Worker receives what a leader sends, passes it on to its children and
// delivers it to its output.
type Worker struct {
	opts WorkerOptions
	l    net.Listener
}

// NewWorker checks the options and starts to listen for children. Run or Close
// ends that.
func NewWorker(opts WorkerOptions) (*Worker, error) {
	if err := opts.Validate(); err != nil {
		return nil, err
	}
	opts = opts.withDefaults()
	var lc net.ListenConfig
	l, err := lc.Listen(context.Background(), "tcp", opts.Listen)
	if err != nil {
		return nil, err
	}
	return &Worker{opts: opts, l: l}, nil
}

// Close stops listening; only needed without Run.
func (w *Worker) Close() error { return w.l.Close() }

// advertised is the address to tell the leader: without a host, the leader
// fills in the one that it sees.
func (w *Worker) advertised() string {
	_, port, _ := net.SplitHostPort(w.l.Addr().String())
	if w.opts.Advertise == "" {
		host, _, _ := net.SplitHostPort(w.l.Addr().String())
		if ip := net.ParseIP(host); ip == nil || ip.IsUnspecified() {
			host = ""
		}
		return net.JoinHostPort(host, port)
	}
	if _, _, err := net.SplitHostPort(w.opts.Advertise); err == nil {
		return w.opts.Advertise
	}
	return net.JoinHostPort(w.opts.Advertise, port)
}

// Run joins the leader and returns when this worker has everything, verified
// and delivered, and no other worker needs it any more; or on the first
// failure that it can't mend. It returns within a second when ctx ends. A
// Worker runs once.
func (w *Worker) Run(ctx context.Context) (*Report, error) {
	defer w.l.Close()
	ctrl, err := w.join(ctx)
	if err != nil {
		return nil, err
	}
	defer ctrl.Close()
	start, m, err := w.awaitStart(ctx, ctrl)
	if err != nil {
		wire.Refuse(ctrl, failureOf(err))
		return nil, err
	}
	wr, err := w.prepare(start, m, ctrl)
	if err != nil {
		wire.Refuse(ctrl, failureOf(err))
		return nil, err
	}
	return wr.run(ctx, w.l)
}

// joinPause is the time between two tries to reach a leader that is not there
// yet: short beside starting a process, long beside a refused connection.
const joinPause = 200 * time.Millisecond

// join connects to the leader, patiently: the members of a job start in any order.
func (w *Worker) join(ctx context.Context) (*wire.Conn, error) {
	deadline := time.Now().Add(w.opts.Wait)
	req := wire.Request{Role: wire.Join, Name: w.opts.Name, Addr: w.advertised(), Rank: w.opts.Rank, Mem: w.opts.Memory}
	if req.Rank == 0 {
		req.Rank = -1
	}
	for {
		conn, err := w.dialLeader(ctx, req, max(time.Until(deadline), joinPause))
		if err == nil {
			return conn, nil
		}
		left := time.Until(deadline)
		if !worthWaiting(err) || left <= 0 || ctx.Err() != nil {
			if ctx.Err() != nil {
				err = context.Cause(ctx)
			} else if w.opts.Wait >= joinPause && worthWaiting(err) {
				err = fmt.Errorf("no answer within %v: %w", w.opts.Wait, plain(err))
			}
			return nil, &Error{Op: "join", Peer: w.opts.Leader, Err: plain(err)}
		}
		select {
		case <-time.After(min(joinPause, left)):
		case <-ctx.Done():
		}
	}
}

// dialLeader tries to join once, within what is left of Wait.
func (w *Worker) dialLeader(ctx context.Context, req wire.Request, left time.Duration) (*wire.Conn, error) {
	timeout := min(handshakeTimeout, left)
	return dial(ctx, w.opts.Leader, w.opts.Token, req, timeout, timeout)
}

// worthWaiting reports whether a leader that is only late could explain err.
func worthWaiting(err error) bool {
	if f := (*wire.Failure)(nil); errors.As(err, &f) {
		return false
	}
	if errors.Is(err, wire.ErrMagic) || errors.Is(err, wire.ErrVersion) || errors.Is(err, wire.ErrHeader) {
		return false
	}
	return !errors.Is(err, syscall.EACCES) && !errors.Is(err, syscall.EPERM)
}

// awaitStart waits for the job to begin and reads the manifest. The leader
// pings while it waits for other workers.
func (w *Worker) awaitStart(ctx context.Context, ctrl *wire.Conn) (*startMsg, *manifest, error) {
	unhook := context.AfterFunc(ctx, func() { _ = ctrl.SetReadDeadline(time.Unix(1, 0)) })
	defer unhook()
	start, m := (*startMsg)(nil), &manifest{}
	for {
		_ = ctrl.SetReadDeadline(time.Now().Add(DefaultStall))
		if ctx.Err() != nil { // the deadline above may have undone that of the hook
			return nil, nil, context.Cause(ctx)
		}
		h, err := ctrl.ReadHeader()
		if ctx.Err() != nil {
			return nil, nil, context.Cause(ctx)
		}
		if err != nil {
			return nil, nil, w.leaderLost(err)
		}
		switch {
		case h.Type == wire.Ping:
		case h.Type == wire.Error:
			return nil, nil, w.refused(wire.ReadFailure(ctrl, h))
		case h.Type == wire.Start && start == nil:
			start = &startMsg{}
			if err = ctrl.ReadJSON(h, start); err == nil {
				err = start.check()
			}
			*m = manifest{Job: start.Job, Epoch: start.Epoch, BlockBytes: start.BlockBytes}
		case h.Type == wire.Objects && start != nil:
			var more objectsMsg
			if err = ctrl.ReadJSON(h, &more); err == nil {
				err = m.add(more.Objects, start.Objects, maxManifest(w.opts.Memory))
			}
		case h.Type == wire.Lost: // said again once everybody has started
		default:
			err = fmt.Errorf("%w: unexpected %s", wire.ErrHeader, h.Type)
		}
		if err == nil && start != nil && len(m.Objects) == start.Objects {
			if err = m.check(); err == nil {
				return start, m, nil
			}
		}
		if err != nil {
			return nil, nil, &Error{Op: "join", Peer: w.opts.Leader, Err: err}
		}
	}
}

func (w *Worker) leaderLost(err error) error {
	return fmt.Errorf("%w: %s: %w", ErrLeaderLost, w.opts.Leader, plain(err))
}

// refused is what the leader said when it ended the job.
func (w *Worker) refused(err error) error {
	return fmt.Errorf("leader %s ended the job: %w", w.opts.Leader, fromWire(err))
}

// prepare makes everything that can fail before the first byte.
func (w *Worker) prepare(s *startMsg, m *manifest, ctrl *wire.Conn) (*workerRun, error) {
	for i := range m.Objects {
		if _, err := parseChecksum(m.Objects[i].Checksum); err != nil {
			return nil, fmt.Errorf("%s: %w", &m.Objects[i], err)
		}
	}
	plan, err := topology.Make(len(s.Members), s.shape, topology.Load{Bytes: m.Bytes(), BlockBytes: m.BlockBytes})
	if err != nil {
		return nil, err
	}
	slots := workerSlots(w.opts.Memory, m.BlockBytes)
	if slots < minSlots || s.Report > uint64(slots/reportShare) {
		return nil, fmt.Errorf("memory of %d bytes is too little for blocks of %d: give at least %d", w.opts.Memory, m.BlockBytes, minMemory(m.BlockBytes))
	}
	out, err := w.opts.Output.open(m)
	if err != nil {
		return nil, &Error{Op: "deliver", Err: err}
	}
	it := newItems(m)
	names := []string{"leader (" + w.opts.Leader + ")"}
	for _, x := range s.Members {
		names = append(names, fmt.Sprintf("%s (%s)", x.Name, x.Addr))
	}
	n := &node{
		job: m.Job, items: it, ring: ring.New(slots), stall: s.Stall, log: w.opts.Log, names: names,
		moved: make(chan struct{}, 1), children: make(map[uint32]*child), seen: make(map[uint32]bool), news: make(chan struct{}),
	}
	wr := &workerRun{
		w: w, start: s, plan: plan, ctrl: ctrl, node: n, items: it, delivery: newDelivery(it, out),
		budget: budget.New(w.opts.Memory), lost: make(map[int]bool), sums: newLeaderSums(), bye: make(chan struct{}), began: time.Now(),
	}
	wr.progress = newProgressMeter(w.opts.Progress, m)
	n.detached = wr.tellDetached
	wr.delivery.proof = wr.proof
	if s.Digest == DigestSHA256 {
		wr.delivery.sha = sha256.New()
	}
	ctrl.SetWriteTimeout(s.Stall)
	return wr, nil
}
