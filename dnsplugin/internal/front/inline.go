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
	// inlineTimeout is how long the chain may keep a worker from its socket: a
	// hundred times as long as a batch takes. An idle machine gets a stuck
	// plugin's worker back within it, a busy one may lose some to no purpose.
	inlineTimeout = 2 * time.Millisecond
	// inlinePause is how long queries go to the backlog after that has happened, so
	// that plugins which always wait hold up a fiftieth of the time at most.
	inlinePause = 100 * time.Millisecond
)

// InlineBatch are the queries of a batch that need the chain though their answers are
// in its cache: other plugins stand before that. The worker takes them through
// it itself, one after the other, since a goroutine and a call of the kernel
// for each cost more than the chain.
//
// Plugins may wait all the same. When they do for longer than patience,
// another goroutine becomes the worker: the replies so far go out, what has
// not begun goes to the backlog, and the query that waits is answered when its
// time comes, by a goroutine that then ends. A turn that has lost its worker
// is not used again, and the worker takes no queries itself before it is over:
// so a plugin that never comes back keeps one goroutine of each worker.
type InlineBatch struct {
	_         [128]byte // batches begin and end turns: nobody else's line
	Server    *Server
	worker    *Worker
	notBefore time.Time    // takes no queries before
	previous  *InlineBatch // takes none before the goroutine of this one has come back; may be nil
	timer     *time.Timer  // runs late

	mu      sync.Mutex      // guards batch, queries and begun
	batch   *fastpath.Batch // nil but for a turn that goes on with its worker
	queries []*ChainQuery
	Started int // the one before is in the chain
	ended   atomic.Bool
	_       [128]byte
}

func newInlineBatch(f *Server, w *Worker, after time.Time, lost *InlineBatch) *InlineBatch {
	t := &InlineBatch{Server: f, worker: w, notBefore: after, previous: lost}
	t.timer = time.AfterFunc(time.Hour, t.handOver)
	t.timer.Stop()
	return t
}

// ChainQuery is a query in the chain with all that is made for it, in one
// piece. It implements dns.ResponseWriter: a reply in time goes into the batch,
// any other to the socket. Plugins may keep it, so it is not used again.
type ChainQuery struct {
	ChainWriter
	batch   *InlineBatch
	index   int  // in the batch
	replied bool // guarded by turn.mu

	from     fastpath.Origin
	Req      dns.Msg
	question [1]dns.Question
	extra    [1]dns.RR
	opt      dns.OPT
}

// cachedInChain reports whether the chain has the answer to a in its cache, and so
// need not wait for anybody.
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

// add puts packet i of b, whose question is q, into the turn. It reports
// whether it does.
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

// Unpack makes the message of pkt, as dns.Msg.Unpack does.
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

// run takes the queries through the chain. It reports whether this goroutine
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

// nextQuery returns the next query, nil if there is none.
func (t *InlineBatch) nextQuery() *ChainQuery {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.batch == nil || t.Started == len(t.queries) {
		return nil
	}
	t.Started++
	return t.queries[t.Started-1]
}

// finish makes t ready for the next batch. It reports whether it may be.
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

// late makes another goroutine the worker. It may come for the turn before,
// and then finds none or does no harm.
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

// reply puts what pack makes into the batch, if x is the query that is in the
// chain and it is its first reply. pack gets a buffer, and may return another.
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
	copy(buf[:len(p)], p) // where it stands already, as a rule
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

// chainContext is what the chain of s gets with every query.
func chainContext(s *dnsserver.Server) context.Context {
	ctx := context.WithValue(context.Background(), dnsserver.Key{}, s)
	return context.WithValue(ctx, dnsserver.LoopKey{}, 0)
}
