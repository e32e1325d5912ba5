package front

import (
	"context"
	"encoding/binary"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coredns/coredns/core/dnsserver"
	"github.com/miekg/dns"

	"github.com/penstock/penstock/dnsplugin/internal/fastpath"
	"github.com/penstock/penstock/dnsplugin/internal/meters"
	"github.com/penstock/penstock/dnsplugin/internal/sides"
	"github.com/penstock/penstock/dnsplugin/internal/wire"
)

const (
	// inlineTimeout is how long the chain may keep a worker from its socket, a
	// hundred times the duration of a batch. An idle machine replaces the worker
	// of a blocked plugin within this time; a busy machine may also replace some
	// without need.
	inlineTimeout = 2 * time.Millisecond
	// inlinePause is how long queries then go to the backlog instead, so that
	// plugins which always block take at most a fiftieth of a worker's time.
	inlinePause = 100 * time.Millisecond
)

// InlineBatch holds the queries of a batch whose answers are in the cache, but
// which must pass other plugins before it. The worker takes them through the
// chain itself, one after the other, because a goroutine and a system call for
// each would cost more than the chain.
//
// A plugin may still block. If it does for longer than inlineTimeout, another
// goroutine becomes the worker. It sends the replies so far, moves the queries
// that are not started to the backlog, and continues with the socket. The
// blocked goroutine answers its query when the plugin returns, and then ends.
// Until then the new worker runs no queries inline, so that a plugin that never
// returns holds one goroutine of each worker.
type InlineBatch struct {
	_         [128]byte // written for each batch, so it shares no cache line
	Server    *Server
	worker    *Worker
	notBefore time.Time    // it accepts no queries before this time
	previous  *InlineBatch // it accepts none before this one has ended; may be nil
	timer     *time.Timer  // calls handOver

	mu      sync.Mutex      // guards batch, queries and Started
	batch   *fastpath.Batch // nil after handOver and between batches
	queries []*ChainQuery
	Started int // number of queries that have entered the chain
	ended   atomic.Bool
	_       [128]byte
}

func newInlineBatch(f *Server, w *Worker, after time.Time, lost *InlineBatch) *InlineBatch {
	t := &InlineBatch{Server: f, worker: w, notBefore: after, previous: lost}
	t.timer = time.AfterFunc(time.Hour, t.handOver)
	t.timer.Stop()
	return t
}

// ChainQuery is a query in the chain and its message, in one allocation. It
// implements dns.ResponseWriter. A reply in time goes into the batch, and any
// other to the socket. Plugins may retain it, so it is not reused.
type ChainQuery struct {
	ChainWriter
	batch   *InlineBatch
	index   int  // in the batch of packets
	replied bool // guarded by batch.mu

	from     fastpath.Origin
	Req      dns.Msg
	question [1]dns.Question
	extra    [1]dns.RR
	opt      dns.OPT
}

// cachedInChain reports whether the cache in the chain probably answers a without
// asking the source.
func (f *Server) cachedInChain(a *Query, why meters.Reason, now time.Time) bool {
	switch why {
	case meters.Shuffle, meters.TooLong:
		return true
	case meters.OtherZone:
	default:
		return false
	}
	e := a.denial
	if e == nil {
		e = a.success
	}
	if e == nil {
		return false
	}
	return a.Zone.sides.Peek(e, a.Zone.sides.Instant(now)) != sides.AskFirst
}

// add adds packet i of b, whose question is q, and reports whether it did.
func (t *InlineBatch) add(b *fastpath.Batch, i int, q *wire.Query, now time.Time) bool {
	if now.Before(t.notBefore) {
		return false
	}
	if t.previous != nil {
		if !t.previous.ended.Load() {
			return false
		}
		t.previous = nil
	}
	x := &ChainQuery{batch: t, index: i, from: b.Origin(i)}
	if !x.Unpack(b.Packet(i), q) {
		return false
	}
	x.ChainWriter = ChainWriter{origin: &x.from, Local: t.Server.Local}
	t.queries = append(t.queries, x)
	return true
}

// Unpack unpacks pkt with the same result as dns.Msg.Unpack.
func (x *ChainQuery) Unpack(pkt []byte, q *wire.Query) bool {
	m := &x.Req
	body := wire.HeaderLen + len(q.Question(pkt))
	if q.OPT && len(pkt) > body+wire.OPTLen {
		return m.Unpack(pkt) == nil // options
	}
	name, _, err := dns.UnpackDomainName(pkt, wire.HeaderLen)
	if err != nil {
		return false
	}
	m.MsgHdr = dns.MsgHdr{Id: q.ID, RecursionDesired: q.RD, AuthenticatedData: q.AD, CheckingDisabled: q.CD}
	x.question[0] = dns.Question{Name: name, Qtype: q.Type, Qclass: q.Class}
	m.Question = x.question[:]
	if q.OPT {
		x.opt.Hdr = dns.RR_Header{Name: ".", Rrtype: dns.TypeOPT, Class: q.UDPSize, Ttl: binary.BigEndian.Uint32(pkt[body+5:])}
		x.extra[0] = &x.opt
		m.Extra = x.extra[:]
	}
	return true
}

// runAll takes the queries through the chain. It reports whether this goroutine
// is still the worker.
func (t *InlineBatch) runAll(b *fastpath.Batch) bool {
	if len(t.queries) == 0 {
		return true
	}
	t.mu.Lock()
	t.batch = b
	t.mu.Unlock()
	t.timer.Reset(inlineTimeout)
	for x := t.nextQuery(); x != nil; x = t.nextQuery() {
		t.Server.Server.ServeDNS(t.Server.ctx, x, &x.Req)
	}
	return t.finish()
}

// nextQuery returns the next query, or nil.
func (t *InlineBatch) nextQuery() *ChainQuery {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.batch == nil || t.Started == len(t.queries) {
		return nil
	}
	t.Started++
	return t.queries[t.Started-1]
}

// finish prepares t for the next batch. It reports false if handOver has taken
// the batch.
func (t *InlineBatch) finish() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.batch == nil {
		t.ended.Store(true)
		return false
	}
	t.batch, t.Started = nil, 0
	clear(t.queries)
	t.queries = t.queries[:0]
	t.timer.Stop()
	return true
}

// handOver makes another goroutine the worker. The timer may fire late, for an
// earlier batch; then handOver finds no batch, or takes one without need.
func (t *InlineBatch) handOver() {
	t.mu.Lock()
	b, rest := t.batch, t.queries[t.Started:]
	t.batch = nil
	t.mu.Unlock()
	if b == nil {
		return
	}
	t.worker.inline = newInlineBatch(t.Server, t.worker, t.Server.Now().Add(inlinePause), t)
	for _, x := range rest {
		j := packetJob(b, x.index)
		j.cached = true
		t.Server.Backlog.Submit(j)
	}
	b.Resume()
}

// reply puts the reply that pack makes into the batch, if x is the query in the
// chain and this is its first reply. pack may use the buffer that it receives, or
// return another one.
func (t *InlineBatch) reply(x *ChainQuery, pack func(buf []byte) ([]byte, error)) (done bool, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.batch == nil || t.queries[t.Started-1] != x || x.replied {
		return false, nil
	}
	buf := t.batch.Buffer()
	p, err := pack(buf[:cap(buf)])
	if err != nil || len(p) > cap(buf) {
		return err != nil, err
	}
	copy(buf[:len(p)], p) // usually p is in buf already
	t.batch.Reply(x.index, len(p))
	x.replied = true
	return true, nil
}

// WriteMsg implements dns.ResponseWriter.
func (x *ChainQuery) WriteMsg(m *dns.Msg) error {
	if done, err := x.batch.reply(x, m.PackBuffer); done {
		return err
	}
	return x.ChainWriter.WriteMsg(m)
}

// Write implements dns.ResponseWriter.
func (x *ChainQuery) Write(p []byte) (int, error) {
	if done, _ := x.batch.reply(x, func([]byte) ([]byte, error) { return p, nil }); done {
		return len(p), nil
	}
	return x.ChainWriter.Write(p)
}

// chainContext returns the parent context of the queries in the chain of s.
func chainContext(s *dnsserver.Server) context.Context {
	ctx := context.WithValue(context.Background(), dnsserver.Key{}, s)
	return context.WithValue(ctx, dnsserver.LoopKey{}, 0)
}
