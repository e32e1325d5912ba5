package dnsplugin

import (
	"bytes"
	"math"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/penstock/penstock/dnsplugin/internal/admission"
	"github.com/penstock/penstock/dnsplugin/internal/fastpath"
	"github.com/penstock/penstock/dnsplugin/internal/meters"
	"github.com/penstock/penstock/dnsplugin/internal/sides"
	"github.com/penstock/penstock/dnsplugin/internal/wire"
)

// chainLimits bound the queries of one address that are in the plugin chain,
// or wait for it. Each that runs is a goroutine of 16 to 20 KiB, one that waits
// takes 400 bytes: 120 MiB at most, while sources are silent.
var chainLimits = admission.Limits{
	// With a source that takes 20 ms that is 100,000 misses a second; a listener
	// with one zone gets four fifths.
	Quick: 2560,
	// Silent sources hold a query for 2 to 6 s.
	Long:    3072,
	Reserve: 512,
	Queued:  8192,
	Groups:  8192,
	// Slower than most answers from the far side of the world.
	LongAfter: 100 * time.Millisecond,
	// Stub resolvers ask again after 5 s, other servers after 2 s.
	Wait: time.Second,
}

const (
	// maxAfter bounds the goroutines of an address whose query is answered but
	// which have not come back from the chain: a log whose reader has stopped,
	// say. Beyond it queries keep their places in the chain for so long.
	maxAfter = 4096
	// unwatchAt is how many of them say that plugins which only watch don't
	// come back. They see queries again when there are a quarter as many.
	unwatchAt = maxAfter / 2
	// maxTransfers bounds the transfers of zones of one address, for as many
	// secondaries as any zone has.
	maxTransfers = 256
	// tick is how often those that wait are looked at when nothing else happens.
	tick = 100 * time.Millisecond
	// noZone is the index of names that no zone of the listener holds.
	noZone = 1<<16 - 1
)

// job is a query for the chain. It has copies of everything.
type job struct {
	admission.Place
	packet []byte
	origin fastpath.Origin // if conn is nil
	conn   *fastpath.Conn  // held until the job is over
	ipv4   bool
	// The answer are many messages, and the next one is sent when the client
	// has taken those before. Has a conn.
	transfer bool

	zone *fastZone // set with key
	key  string    // of the question and its shape, if others may wait for the answer; else ""

	again bool // leads beside another one of its key

	// The cache has an answer, fresh or stale. Without a place for a query that
	// may have to wait, the chain serves it without asking the source.
	cached bool
	atOnce bool // it does

	over atomic.Bool // answered, or back from the chain, or dropped
}

// packetJob makes a job of packet i of b.
func packetJob(b *fastpath.Batch, i int) *job {
	return &job{packet: bytes.Clone(b.Packet(i)), origin: b.Origin(i), ipv4: b.IPv4(i)}
}

// backlog is what stands between the sockets and the chain. Readers put jobs
// in and never wait; admission.go says which of them run, wait, or are dropped.
//
// A job with a key leads those of the same key that come while it is in here:
// they are kept aside until it is done, and then answered from the cache. So
// many misses of one name are one question to the chain, and cost a few
// hundred bytes each while they wait. A leader that takes long gets another
// one beside it: the source may drop its question, and answer this one.
type backlog struct {
	server *fastServer

	mu        sync.Mutex // guards all below; held for a few map and list operations
	admission *admission.Control
	waiters   map[string]*waiting // by key; an entry for each key with leaders in here
	waits     int                 // in all of them
	after     int                 // goroutines that still run though their query is answered
	moving    int                 // transfers, which have no place in the admission
	ticking   bool                // a call of tick is due
	counted   backlogCounts       // since takeCounts

	pending atomic.Int64 // queued and running, for workers to look at
}

// backlogCounts is what has become of jobs.
type backlogCounts struct {
	shed   uint64 // dropped
	queued uint64 // could not begin at once
	atOnce uint64 // served from the cache without asking the source, for want of a place
}

// waiting are the jobs that wait for leaders.
type waiting struct {
	jobs    []*job
	leaders int
	since   time.Time // when the latest leader came
}

func newBacklog(f *fastServer) *backlog {
	return &backlog{server: f, waiters: map[string]*waiting{}, admission: admission.New(chainLimits)}
}

// busy reports whether goroutines are at work.
func (b *backlog) busy() bool { return b.pending.Load() > 0 }

// submit takes j. It reports whether j, or one that it starts, must run.
func (b *backlog) submit(j *job) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if j.transfer {
		b.startTransferLocked(j)
		return true
	}
	now := b.server.now()
	if b.joinLocked(j, now) {
		return false
	}
	b.enqueueLocked(j, now)
	return true
}

// offer is submit for a job whose answer is in the cache already: it does not
// wait for a place. It reports false if there is none, and forgets j.
func (b *backlog) offer(j *job) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.server.now()
	if b.joinLocked(j, now) {
		return true
	}
	b.placeLocked(j)
	b.startQueuedLocked(now, admission.Probes)
	if !b.admission.Begin(&j.Place, now) {
		b.admission.Leave(&j.Place)
		b.leaderGoneLocked(j)
		b.counted.atOnce++
		return false
	}
	b.runLocked(j)
	return true
}

// joinLocked lets j wait for a leader of its key. Otherwise j leads from here
// on, or asks by itself.
func (b *backlog) joinLocked(j *job, now time.Time) (joined bool) {
	if j.key == "" {
		return false
	}
	w := b.waiters[j.key]
	switch free := 2*j.zone.cache.Coalesce - b.waits; {
	case w == nil:
		b.waiters[j.key] = &waiting{leaders: 1, since: now}
		return false
	case now.Sub(w.since) >= sides.LeadFor:
		w.leaders++
		w.since = now
		j.again = true
		return false
	case len(w.jobs) < free:
		w.jobs = append(w.jobs, j)
		b.waits++
		return true
	case len(w.jobs) == 0:
		j.key = "" // other names have taken all the room
		return false
	}
	// The oldest of this name: all of one name wait for the same.
	b.counted.shed++
	w.jobs[0].done()
	copy(w.jobs, w.jobs[1:])
	w.jobs[len(w.jobs)-1] = j
	return true
}

// enqueueLocked lets j run now or later.
func (b *backlog) enqueueLocked(j *job, now time.Time) {
	b.placeLocked(j)
	b.startQueuedLocked(now, admission.Probes)
	switch {
	case b.admission.Begin(&j.Place, now):
		b.runLocked(j)
	case j.cached && b.admission.BeginAtOnce(&j.Place, now):
		j.atOnce = true
		b.counted.atOnce++
		b.runLocked(j)
	default:
		b.counted.queued++
		b.admission.Wait(&j.Place, now)
		b.shedLocked()
		b.tickLocked()
	}
}

// placeLocked gives j its place in the groups of its name.
func (b *backlog) placeLocked(j *job) {
	if j.Known() {
		return
	}
	j.Owner = j
	var buf [wire.MaxNameLen]byte
	name, zone, zoneLen := wire.AppendName(buf[:0], j.packet), noZone, 1
	if z := b.server.blockOf(name); z != nil {
		zone, zoneLen = z.Index, len(z.suffix)
	}
	b.admission.Assign(&j.Place, zone, name, zoneLen)
}

// startQueuedLocked starts those that have waited, as far as there is room.
func (b *backlog) startQueuedLocked(now time.Time, groups int) {
	for p := b.admission.StartNext(now, groups); p != nil; p = b.admission.StartNext(now, groups) {
		b.runLocked(jobOf(p))
	}
	b.shedLocked()
}

// jobOf returns the job whose place p is.
func jobOf(p *admission.Place) *job {
	j, _ := p.Owner.(*job)
	return j
}

func (b *backlog) runLocked(j *job) {
	b.pending.Add(1)
	go b.run(j)
}

// tickLocked makes sure that those who wait are looked at.
func (b *backlog) tickLocked() {
	if b.ticking || b.admission.Queued == 0 {
		return
	}
	b.ticking = true
	time.AfterFunc(tick, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.ticking = false
		b.startQueuedLocked(b.server.now(), math.MaxInt)
		b.tickLocked()
	})
}

// startTransferLocked runs j apart from all others: it may wait for its client
// for as long as that reads slowly, and must not keep a place from them.
func (b *backlog) startTransferLocked(j *job) {
	if b.moving >= maxTransfers {
		b.counted.shed++
		j.done()
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

// shedLocked forgets the jobs that the admission has dropped.
func (b *backlog) shedLocked() {
	for _, p := range b.admission.TakeDropped() {
		b.counted.shed++
		jobOf(p).done()
		b.leaderGoneLocked(jobOf(p))
	}
}

// leaderGoneLocked forgets those that wait for j and for no other leader: they
// came after it but can't be answered before it.
func (b *backlog) leaderGoneLocked(j *job) {
	w := b.waiters[j.key]
	if j.key == "" || w == nil {
		return
	}
	if w.leaders--; w.leaders > 0 {
		return
	}
	delete(b.waiters, j.key)
	for _, other := range w.jobs {
		other.done()
	}
	b.counted.shed += uint64(len(w.jobs))
	b.waits -= len(w.jobs)
}

// run takes j through the chain.
func (b *backlog) run(j *job) {
	b.server.viaChain(j)
	if b.settle(j, true) {
		return // it was not answered
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if j.State == admission.Idle {
		b.after--
		if b.after < unwatchAt/4 {
			b.server.unwatched.Store(false)
		}
		return
	}
	b.releaseLocked(j)
}

// answered gives back the place of j, whose reply is out though the chain has
// not come back: plugins may write a log, for as long as its reader takes.
func (b *backlog) answered(j *job) { b.settle(j, false) }

// settle answers those that wait for j, once. back says that the chain has
// come back.
func (b *backlog) settle(j *job, back bool) bool {
	if !j.over.CompareAndSwap(false, true) {
		return false
	}
	j.done()
	b.mu.Lock()
	if back || b.after < maxAfter {
		b.releaseLocked(j)
		if !back {
			b.after++
			if b.after >= unwatchAt {
				b.server.unwatched.Store(true)
			}
		}
	}
	w := b.waiters[j.key]
	if j.key == "" || w == nil {
		b.mu.Unlock()
		return true
	}
	jobs := w.jobs
	w.jobs = nil
	b.waits -= len(jobs)
	if w.leaders--; w.leaders == 0 {
		delete(b.waiters, j.key)
	}
	b.mu.Unlock()
	if len(jobs) > 0 {
		b.landed(j.key, jobs)
	}
	return true
}

// releaseLocked ends the part of j in the admission and lets others begin.
func (b *backlog) releaseLocked(j *job) {
	now := b.server.now()
	b.admission.End(&j.Place, now)
	b.pending.Add(-1)
	b.startQueuedLocked(now, admission.Probes)
}

// landed answers jobs, which have waited for a leader of key.
func (b *backlog) landed(key string, jobs []*job) {
	var left []*job
	buf := make([]byte, 0, fastpath.MaxPacket)
	for _, other := range jobs {
		if b.server.late(other, buf) {
			other.done()
		} else {
			left = append(left, other)
		}
	}
	if len(left) == 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.server.now()
	// The answer is not one to share (truncated, refused, an error). Another
	// leader may bring one; without any, each asks for itself, as in the chain.
	if w := b.waiters[key]; w != nil {
		w.jobs = append(w.jobs, left...)
		b.waits += len(left)
		return
	}
	for _, other := range left {
		other.key = ""
		b.enqueueLocked(other, now)
	}
}

// takeCounts returns what has become of jobs since the last call.
func (b *backlog) takeCounts() backlogCounts {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := b.counted
	b.counted = backlogCounts{}
	return n
}

// levels returns how many jobs are in which state.
func (b *backlog) levels() (quick, long, after, queued int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.admission.Age(b.server.now())
	return b.admission.Quick, b.admission.Long, b.after, b.admission.Queued
}

// late answers a job that has waited, from the cache if it can.
func (f *fastServer) late(j *job, buf []byte) bool {
	workers := f.workers
	if j.conn != nil {
		workers = f.streams
	}
	w := workers[len(workers)-1]
	w.Mu.Lock()
	defer w.Mu.Unlock()
	reply, a, why := f.answer(w, j.packet, buf, f.now())
	if why != meters.Understood {
		return false
	}
	z := a.zone
	if z.Counted {
		w.CountQuery(&z.Zone, &a.q, len(j.packet), j.ipv4)
		w.CountDuration(0)
	}
	w.CountWait(&z.Zone, w.kind)
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
