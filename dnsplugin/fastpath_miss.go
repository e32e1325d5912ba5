package dnsplugin

import (
	"bytes"
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/penstock/penstock/dnsplugin/internal/fastpath"
	"github.com/penstock/penstock/dnsplugin/internal/wire"
)

const (
	// maxRunning bounds the queries of one address that are in the plugin
	// chain at a time: each is a goroutine of about 20 KiB, so 40 MiB. With an
	// upstream that takes 20 ms that is 100,000 misses a second.
	maxRunning = 2048
	// maxQueued bounds those that wait for a place there, about 400 bytes
	// each. At the rate above they have waited a tenth of a second when they
	// are dropped; their clients ask again after seconds.
	maxQueued = 8192
	// maxTransfers bounds the transfers of zones of one address, for as many
	// secondaries as any zone has.
	maxTransfers = 256
)

// job is a query for the chain. It has copies of everything.
type job struct {
	packet []byte
	origin fastpath.Origin // if conn is nil
	conn   *fastpath.Conn  // held until done
	ipv4   bool
	// The answer are many messages, and the next one is sent when the client
	// has taken those before. Has a conn.
	transfer bool

	zone *fastZone // set with key
	key  string    // of the cache, if others may wait for the answer; else ""
}

// packetJob makes a job of packet i of b.
func packetJob(b *fastpath.Batch, i int) *job {
	return &job{packet: bytes.Clone(b.Packet(i)), origin: b.Origin(i), ipv4: b.IPv4(i)}
}

// backlog is what stands between the sockets and the chain. Readers put jobs
// in and never wait: when there are too many, the oldest goes, since its
// client is the one that is nearest to giving up.
//
// A job with a key leads those of the same key that come while it is in here:
// they are kept aside until it is done, and then answered from the cache. So
// many misses of one name are one question to the chain, and cost a few
// hundred bytes each while they wait.
type backlog struct {
	server *fastServer

	mu      sync.Mutex // guards all below; held for a few map and list operations
	queue   ring
	waiters map[string]*waiting // by key; an entry for each leader in here
	waits   int                 // in all of them
	running int                 // goroutines
	moving  int                 // transfers, which are not counted in running
	shed    uint64              // dropped jobs since takeShed

	pending atomic.Int64 // queued and running, for workers to look at
}

// waiting are the jobs that wait for a leader.
type waiting struct{ jobs []*job }

func newBacklog(f *fastServer) *backlog {
	return &backlog{server: f, waiters: map[string]*waiting{}}
}

// busy reports whether goroutines are at work.
func (b *backlog) busy() bool { return b.pending.Load() > 0 }

// submit takes j. It reports whether j, or one that it starts, must run.
func (b *backlog) submit(j *job) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if j.key != "" {
		if w := b.waiters[j.key]; w != nil {
			if b.waits >= j.zone.cache.cfg.Coalesce {
				// The oldest of this name: all of one name wait for the same.
				b.shed++
				if len(w.jobs) == 0 {
					j.done()
					return false
				}
				w.jobs[0].done()
				copy(w.jobs, w.jobs[1:])
				w.jobs[len(w.jobs)-1] = j
				return false
			}
			w.jobs = append(w.jobs, j)
			b.waits++
			return false
		}
		b.waiters[j.key] = &waiting{}
	}
	b.enqueue(j)
	return true
}

// enqueue lets j run now or later. The caller holds the lock.
func (b *backlog) enqueue(j *job) {
	if j.transfer {
		b.startTransfer(j)
		return
	}
	if b.running < maxRunning {
		b.running++
		b.pending.Add(1)
		go b.run(j)
		return
	}
	if b.queue.len() >= maxQueued {
		b.drop(b.queue.pop())
	}
	b.queue.push(j)
}

// startTransfer runs j apart from all others: it may wait for its client for
// as long as that reads slowly, and must not keep a place from them. The
// caller holds the lock.
func (b *backlog) startTransfer(j *job) {
	if b.moving >= maxTransfers {
		b.drop(j)
		return
	}
	b.moving++
	go func() {
		b.server.viaChain(j)
		j.done()
		b.mu.Lock()
		defer b.mu.Unlock()
		b.moving--
	}()
}

// drop forgets j and those that wait for it: they came after it but can't be
// answered before it. The caller holds the lock.
func (b *backlog) drop(j *job) {
	b.shed++
	j.done()
	if j.key == "" {
		return
	}
	others := b.waiters[j.key].jobs
	delete(b.waiters, j.key)
	for _, other := range others {
		other.done()
	}
	b.shed += uint64(len(others))
	b.waits -= len(others)
}

// run serves j and then what is queued.
func (b *backlog) run(j *job) {
	defer b.pending.Add(-1)
	for j != nil {
		b.server.viaChain(j)
		j.done()
		if j.key != "" {
			b.landed(j)
		}
		j = b.next()
	}
}

// next takes the oldest job off the queue. Without one the goroutine ends.
func (b *backlog) next() *job {
	b.mu.Lock()
	defer b.mu.Unlock()
	j := b.queue.pop()
	if j == nil {
		b.running--
	}
	return j
}

// landed answers those that have waited for j.
func (b *backlog) landed(j *job) {
	b.mu.Lock()
	w := b.waiters[j.key]
	delete(b.waiters, j.key)
	b.waits -= len(w.jobs)
	b.mu.Unlock()
	if len(w.jobs) == 0 {
		return
	}
	var left []*job
	buf := make([]byte, 0, fastpath.MaxPacket)
	for _, other := range w.jobs {
		if b.server.late(other, buf) {
			other.done()
		} else {
			// The answer is not one to share (truncated, refused, an error):
			// each asks for itself, as in the chain.
			other.key = ""
			left = append(left, other)
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, other := range left {
		b.enqueue(other)
	}
}

// takeShed returns how many jobs were dropped since the last call.
func (b *backlog) takeShed() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := b.shed
	b.shed = 0
	return n
}

// late answers a job that has waited, from the cache if it can.
func (f *fastServer) late(j *job, buf []byte) bool {
	w := f.workers[len(f.workers)-1]
	if j.conn != nil {
		w = f.streams[len(f.streams)-1]
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	reply, a, why := f.answer(w, j.packet, buf, f.now())
	if why != understood {
		return false
	}
	z := a.zone
	if z.counted {
		w.count(z, &a.q, len(j.packet), j.ipv4)
		w.lasted(0)
	}
	w.cur.zone(z).waited(w.kind)
	if err := j.send(reply); err != nil {
		f.debugf("reply to %s: %v", j.peer(), err)
	}
	return true
}

// send sends a reply to the client without waiting for it.
func (j *job) send(reply []byte) error {
	if j.conn != nil {
		return j.conn.Send(reply)
	}
	return j.origin.Send(reply)
}

// peer is the address of the client.
func (j *job) peer() netip.AddrPort {
	if j.conn != nil {
		return j.conn.Peer()
	}
	return j.origin.Peer()
}

// done says that nothing more will be sent.
func (j *job) done() {
	if j.conn != nil {
		j.conn.Done()
	}
}

// waited marks the hit that was counted last as one that had to wait.
func (zc *zoneCounts) waited(kind string) {
	if kind == labelDenial {
		zc.coalescedDenial++
	} else {
		zc.coalescedSuccess++
	}
}

// ring is a queue that grows up to what was ever in it.
type ring struct {
	jobs  []*job
	first int
	n     int
}

func (r *ring) len() int { return r.n }

func (r *ring) push(j *job) {
	if r.n == len(r.jobs) {
		grown := make([]*job, max(64, 2*len(r.jobs)))
		for i := range r.n {
			grown[i] = r.jobs[(r.first+i)%len(r.jobs)]
		}
		r.jobs, r.first = grown, 0
	}
	r.jobs[(r.first+r.n)%len(r.jobs)] = j
	r.n++
}

// pop returns the oldest, nil if there is none.
func (r *ring) pop() *job {
	if r.n == 0 {
		return nil
	}
	j := r.jobs[r.first]
	r.jobs[r.first] = nil
	r.first = (r.first + 1) % len(r.jobs)
	r.n--
	return j
}

// keyName is the name in a key, in wire form and lower case.
func keyName(key []byte) []byte { return key[wire.MaxKeyLen-wire.MaxNameLen:] }
