package s3stream

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/penstock/penstock/internal/printable"
	"github.com/penstock/penstock/s3stream/internal/topology"
	"github.com/penstock/penstock/s3stream/internal/wire"
)

// member is a worker as the leader knows it.
type member struct {
	conn *wire.Conn
	req  wire.Request

	// Guarded by the leaderRun's mutex.
	present bool // it was welcomed; until then it only holds its place
	status  statusMsg
	done    bool  // it has everything
	err     error // why it is lost; nil while it is not
	took    time.Duration
	moved   time.Time // when status.Bytes last grew
	cut     cutOff
	away    bool // its planned parent knows that it has another one
}

// cutOff is what the leader remembers when a parent has cut a member off. The
// member may still find another parent: it is given up only when it delivers
// nothing for one more stall timeout, or has been cut off maxCuts times, since
// each time its parent and all above it stood still for as long.
type cutOff struct {
	times int
	why   error // nil when it has gone on since
	at    time.Time
	bytes int64 // what it had delivered then
}

const maxCuts = 3

// overdue reports whether the member must be given up.
func (c *cutOff) overdue(now time.Time, stall time.Duration, bytes int64) bool {
	if c.why == nil {
		return false
	}
	if bytes > c.bytes && c.times < maxCuts {
		c.why = nil
		return false
	}
	return c.times >= maxCuts || now.Sub(c.at) >= stall
}

// String names a member in messages: a host may run several workers.
func (m *member) String() string { return fmt.Sprintf("%s (%s)", m.req.Name, m.req.Addr) }

func (m *member) settled() bool { return m.done || m.err != nil }

// wrongHash returns an error if the member says that it has everything and its hash is not the leader's.
func (m *member) wrongHash(ours string) error {
	if !m.done || m.status.Hash == ours {
		return nil
	}
	return fmt.Errorf("%w: the worker says %q, the leader %s", ErrChecksum, m.status.Hash, ours)
}

func (m *member) report(node int, hash string) WorkerReport {
	return WorkerReport{
		Trouble: m.status.Trouble, Node: node, Name: m.req.Name, Addr: m.req.Addr, Bytes: m.status.Bytes, Elapsed: m.took,
		HashOK: m.done && m.status.Hash == hash, Repairs: m.status.Repairs, Err: m.err,
	}
}

// sendStart tells the member that the job begins. A broken connection shows in
// its listener.
func (m *member) sendStart(s startMsg, pieces [][]byte) {
	if err := m.conn.WriteJSON(wire.Start, s); err != nil {
		m.conn.Close()
		return
	}
	for _, p := range pieces {
		if err := m.conn.WriteSmall(wire.Objects, 0, p); err != nil {
			m.conn.Close()
			return
		}
	}
}

// pingEvery is how often a member hears from the leader, whatever the stall
// timeout: at least three times in it.
func pingEvery(stall time.Duration) time.Duration { return min(time.Second, stall/3) }

// accept serves a connection to the leader.
func (r *leaderRun) accept(ctx context.Context, c *wire.Conn, req wire.Request, welcome func() error) {
	switch req.Role {
	case wire.Join:
		r.join(ctx, c, req, welcome)
	case wire.Child:
		select {
		case <-r.node:
			r.serving.serve(ctx, c, req, welcome)
			return
		default:
			wire.Refuse(c, &wire.Failure{Code: "job", Message: "the job has not started"})
		}
	default:
		wire.Refuse(c, &wire.Failure{Code: "job", Message: fmt.Sprintf("unknown role %q", req.Role)})
	}
	c.Close()
}

// join adds a worker and listens to it until it leaves.
func (r *leaderRun) join(ctx context.Context, c *wire.Conn, req wire.Request, welcome func() error) {
	if host, port, err := net.SplitHostPort(req.Addr); err == nil && host == "" {
		seen, _, _ := net.SplitHostPort(c.Remote())
		req.Addr = net.JoinHostPort(seen, port)
	}
	req.Name = cmp.Or(printable.Line(req.Name, maxName), "?")
	m := &member{conn: c, req: req}
	if why := r.admit(m); why != "" {
		wire.Refuse(c, &wire.Failure{Code: "job", Message: why})
		c.Close()
		return
	}
	c.SetWriteTimeout(r.l.opts.StallTimeout)
	err := welcome()
	var wg sync.WaitGroup
	if err == nil {
		if why := r.arrived(m); why != "" {
			wire.Refuse(c, &wire.Failure{Code: "job", Message: why})
			c.Close()
			return
		}
		ctx, cancel := context.WithCancel(ctx)
		wg.Go(func() { m.ping(ctx, pingEvery(r.l.opts.StallTimeout)) })
		err = contain(func() error { return r.listen(m) })
		cancel()
	}
	r.left(ctx, m, err)
	c.Close()
	wg.Wait()
}

const (
	// maxName is the longest name of a member in bytes: the longest label of a host's name in DNS.
	maxName = 63
	// maxAddr is the longest address of a member in bytes: the longest name of a host in DNS, a colon and a port.
	maxAddr = 253 + len(":65535")
	// maxReason bounds what a member says of a failure.
	maxReason = 1 << 10
)

// jobStarted is the answer to a worker that comes too late.
const jobStarted = "the job has already started"

// admit says why a worker can't join, or keeps a place for it.
func (r *leaderRun) admit(m *member) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	want := r.l.opts.Workers
	switch {
	case r.started:
		return jobStarted
	case !isPeerAddr(m.req.Addr):
		return "the worker's address is not host:port"
	case want > 0 && len(r.members) >= want:
		return fmt.Sprintf("the job already has its %d workers", want)
	case len(r.members) >= MaxWorkers:
		return fmt.Sprintf("the job already has %d workers, the most there can be", MaxWorkers)
	}
	r.members = append(r.members, m)
	return ""
}

// arrived says why a worker that was welcomed comes too late, or lets the job count
// on it: nothing may be written to a member before its welcome.
func (r *leaderRun) arrived(m *member) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.started {
		return jobStarted
	}
	m.present = true
	r.announce()
	return ""
}

// assemble counts the workers that are present. If they are enough the job starts
// with them: from here on nobody joins.
func (r *leaderRun) assemble(known, over bool) (present int, enough bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, m := range r.members {
		if m.present {
			present++
		}
	}
	want := r.l.opts.Workers
	enough = known && (want > 0 && present == want || want == 0 && over && present > 0)
	if enough {
		r.started = true
		r.members = slices.DeleteFunc(r.members, func(m *member) bool { return !m.present })
	}
	return present, enough
}

// announce tells the driver that something about the members has changed.
func (r *leaderRun) announce() {
	select {
	case r.news <- struct{}{}:
	default:
	}
}

func (m *member) ping(ctx context.Context, every time.Duration) {
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		_ = m.conn.WriteSmall(wire.Ping, 0, nil) // a broken connection shows in listen
	}
}

// listen reads what a member says until its connection ends.
func (r *leaderRun) listen(m *member) error {
	for {
		// A worker has nothing to say before the job starts; then TCP alone
		// tells whether it lives.
		select {
		case <-r.node:
			_ = m.conn.SetReadDeadline(time.Now().Add(r.l.opts.StallTimeout))
		default:
		}
		h, err := m.conn.ReadHeader()
		if err != nil {
			return plain(err)
		}
		var s statusMsg
		var d detachedMsg
		switch h.Type {
		case wire.Status, wire.Finished:
			if err := m.conn.ReadJSON(h, &s); err != nil {
				return err
			}
			if err := s.check(); err != nil {
				return err
			}
			r.mu.Lock()
			known := m.status.Repairs
			m.heard(&s, h.Type == wire.Finished, r.began)
			r.mu.Unlock()
			if s.Elsewhere {
				r.elsewhere(m)
			}
			if n := min(s.Repairs-known, len(s.Trouble)); n > 0 {
				for _, text := range s.Trouble[len(s.Trouble)-n:] {
					r.l.opts.Log.Warn("a worker changed its parent", "worker", m.String(), "why", text)
				}
			}
			r.announce()
		case wire.Detached:
			if err := m.conn.ReadJSON(h, &d); err != nil {
				return err
			}
			r.detached(d.Node, fmt.Errorf("%w: %s", ErrDetached, printable.Line(d.Reason, maxReason)))
		case wire.Error:
			return fromWire(wire.ReadFailure(m.conn, h))
		default:
			return fmt.Errorf("%w: unexpected %s", wire.ErrHeader, h.Type)
		}
	}
}

// elsewhere tells the planned parent of a member that the member receives from another node, so that the parent does
// not wait for it before it passes anything on.
func (r *leaderRun) elsewhere(m *member) {
	select {
	case <-r.node:
	default:
		return // no worker has a parent before there is a plan
	}
	r.mu.Lock()
	node := slices.Index(r.members, m) + 1
	known := m.away
	m.away = true
	var parent *member
	if p := r.plan.Parent(node); !known && p > topology.Leader {
		parent = r.members[p-1]
	}
	r.mu.Unlock()
	if parent != nil {
		_ = parent.conn.Write(wire.Frame{Header: wire.Header{Type: wire.Lost, Flags: wire.FlagElsewhere, Object: uint32(node)}})
	}
}

// heard notes how far a member is. A report that was on its way when the last one
// overtook it says nothing any more. The caller holds the leaderRun's mutex.
func (m *member) heard(s *statusMsg, last bool, began time.Time) {
	if m.done {
		return
	}
	if s.Bytes > m.status.Bytes {
		m.moved = time.Now()
	}
	m.status, m.took, m.done = *s, time.Since(began), last
	if last {
		m.took = s.Elapsed
	}
}

// left notes that a member's connection has ended.
func (r *leaderRun) left(ctx context.Context, m *member, err error) {
	if ctx.Err() != nil || r.life.over() {
		return // we closed it, or told it why the job ends
	}
	r.mu.Lock()
	if !r.started {
		r.members = slices.DeleteFunc(r.members, func(o *member) bool { return o == m })
	} else if !m.done && m.err == nil {
		m.err = err
	}
	lost, started := m.err != nil, r.started
	if lost {
		err = m.err // if it was given up, why
	}
	r.mu.Unlock()
	r.announce()
	if lost || !started {
		r.l.opts.Log.Warn("worker left", "worker", m.String(), "err", err)
	}
	if lost {
		r.tellLost(m)
	}
}

// detached notes that a node took nothing from its parent and was cut off. Its
// children are sent to their backups at once: it can't know that it should.
func (r *leaderRun) detached(node int, why error) {
	r.mu.Lock()
	if node < 1 || node > len(r.members) || r.members[node-1].settled() {
		r.mu.Unlock()
		return
	}
	m := r.members[node-1]
	m.cut = cutOff{times: m.cut.times + 1, why: why, at: time.Now(), bytes: m.status.Bytes}
	var others []*member
	for _, o := range r.members {
		if o != m && !o.settled() {
			others = append(others, o)
		}
	}
	r.mu.Unlock()
	for _, o := range others {
		_ = o.conn.Write(wire.Frame{Header: wire.Header{Type: wire.Lost, Flags: wire.FlagAlive, Object: uint32(node)}})
	}
}

// endShare of stall timeouts is how long a member may deliver nothing after
// everything was sent: long enough that whoever holds it up was cut off first.
const endShare = 3

// giveUp ends the membership of those that have been cut off and do not go on,
// and at the end of those whose output takes nothing, although all is there.
func (r *leaderRun) giveUp(now time.Time, fed bool) {
	var gone []*member
	stall := r.l.opts.StallTimeout
	r.mu.Lock()
	for _, m := range r.members {
		if m.settled() {
			continue
		}
		if m.cut.overdue(now, stall, m.status.Bytes) {
			m.err = m.cut.why
		}
		if !fed || m.moved.IsZero() {
			m.moved = now
		} else if now.Sub(m.moved) > endShare*stall {
			m.err = fmt.Errorf("%w: it delivered nothing for %v", ErrDetached, endShare*stall)
		}
		if m.err != nil {
			gone = append(gone, m)
		}
	}
	r.mu.Unlock()
	for _, m := range gone {
		wire.Refuse(m.conn, failureOf(m.err))
		m.conn.Close() // its listener tells the others
	}
}

// tellLost tells all members that m is lost, so that its children and its
// parent need not find out; nil tells of all that are.
func (r *leaderRun) tellLost(m *member) {
	select {
	case <-r.node:
	default:
		return // start tells it
	}
	r.mu.Lock()
	var lost []uint32
	var others []*member
	for i, o := range r.members {
		if o.err != nil && (o == m || m == nil) {
			lost = append(lost, uint32(i+1))
		}
		if !o.settled() {
			others = append(others, o)
		}
	}
	r.mu.Unlock()
	for _, id := range lost {
		r.serving.lost(id)
		for _, o := range others {
			_ = o.conn.WriteSmall(wire.Lost, id, nil)
		}
	}
}

// order gives the members their node numbers. The caller holds r.mu.
func (r *leaderRun) order() {
	ms := make([]topology.Member, len(r.members))
	for i, m := range r.members {
		ms[i] = topology.Member{Rank: m.req.Rank, Name: m.req.Name, Addr: m.req.Addr}
	}
	sorted := make([]*member, len(ms))
	for node, i := range topology.Order(ms) {
		sorted[node] = r.members[i]
	}
	r.members = sorted
}

// settled reports whether every member has everything or is lost.
func (r *leaderRun) settled() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return !slices.ContainsFunc(r.members, func(m *member) bool { return !m.settled() })
}

// farewell ends the job at every member: well, or with the reason why not.
func (r *leaderRun) farewell(err error) {
	r.mu.Lock()
	members := slices.Clone(r.members)
	r.started = true
	wrong := make([]error, len(members))
	if err == nil {
		ours := r.feed.hash()
		for i, m := range members {
			wrong[i] = m.wrongHash(ours)
		}
	}
	r.mu.Unlock()
	var wg sync.WaitGroup
	for i, m := range members {
		wg.Go(func() {
			if err != nil {
				wire.Refuse(m.conn, failureOf(err))
			} else if wrong[i] != nil {
				wire.Refuse(m.conn, failureOf(wrong[i]))
			} else {
				_ = m.conn.WriteSmall(wire.Bye, 0, nil)
			}
		})
	}
	wg.Wait()
}
