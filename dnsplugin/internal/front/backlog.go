package front

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

// ChainLimits bound the queries of one address that are in the plugin chain,
// or wait for it. Each that runs is a goroutine of 16 to 20 KiB, one that waits
// takes 400 bytes: 120 MiB at most, while sources are silent.
var ChainLimits = admission.Limits{
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
	// MaxAfter bounds the goroutines of an address whose query is answered but
	// which have not come back from the chain: a log whose reader has stopped,
	// say. Beyond it queries keep their places in the chain for so long.
	MaxAfter = 4096
	// unwatchAt is how many of them say that plugins which only watch don't
	// come back. They see queries again when there are a quarter as many.
	unwatchAt = MaxAfter / 2
	// MaxTransfers bounds the transfers of zones of one address, for as many
	// secondaries as any zone has.
	MaxTransfers = 256
	// queueTick is how often those that wait are looked at when nothing else happens.
	queueTick = 100 * time.Millisecond
	// noZone is the index of names that no zone of the listener holds.
	noZone = 1<<16 - 1
)

// Job is a query for the chain. It has copies of everything.
type Job struct {
	admission.Place
	Packet []byte
	origin fastpath.Origin // if conn is nil
	conn   *fastpath.Conn  // held until the job is over
	ipv4   bool
	// The answer are many messages, and the next one is sent when the client
	// has taken those before. Has a conn.
	transfer bool

	Zone *Zone  // set with key
	Key  string // of the question and its shape, if others may wait for the answer; else ""

	again bool // leads beside another one of its key

	// The cache has an answer, fresh or stale. Without a place for a query that
	// may have to wait, the chain serves it without asking the source.
	cached bool
	atOnce bool // it does

	over atomic.Bool // answered, or back from the chain, or dropped
}

// packetJob makes a job of packet i of b.
func packetJob(b *fastpath.Batch, i int) *Job {
	return &Job{Packet: bytes.Clone(b.Packet(i)), origin: b.Origin(i), ipv4: b.IPv4(i)}
}

// Backlog is what stands between the sockets and the chain. Readers put jobs
// in and never wait; internal/admission decides which of them run, wait, or are dropped.
//
// A job with a key leads those of the same key that come while it is in here:
// they are kept aside until it is done, and then answered from the cache. So
// many misses of one name are one question to the chain, and cost a few
// hundred bytes each while they wait. A leader that takes long gets another
// one beside it: the source may drop its question, and answer this one.
type Backlog struct {
	Server *Server

	Mu         sync.Mutex // guards all below; held for a few map and list operations
	Admission  *admission.Control
	Waiters    map[string]*waiting // by key; an entry for each key with leaders in here
	Waits      int                 // in all of them
	afterReply int                 // goroutines that still run though their query is answered
	Transfers  int                 // transfers, which have no place in the admission
	ticking    bool                // a call of tick is due
	Counted    BacklogCounts       // since takeCounts

	pending atomic.Int64 // queued and running, for workers to look at
}

// BacklogCounts is what has become of jobs.
type BacklogCounts struct {
	Shed   uint64 // dropped
	queued uint64 // could not begin at once
	atOnce uint64 // served from the cache without asking the source, for want of a place
}

// waiting are the jobs that wait for leaders.
type waiting struct {
	jobs    []*Job
	leaders int
	Since   time.Time // when the latest leader came
}

func newBacklog(f *Server) *Backlog {
	return &Backlog{Server: f, Waiters: map[string]*waiting{}, Admission: admission.New(ChainLimits)}
}

// Busy reports whether goroutines are at work.
func (b *Backlog) Busy() bool { return b.pending.Load() > 0 }

// Submit takes j. It reports whether j, or one that it starts, must run.
func (b *Backlog) Submit(j *Job) bool {
	b.Mu.Lock()
	defer b.Mu.Unlock()
	if j.transfer {
		b.startTransferLocked(j)
		return true
	}
	now := b.Server.Now()
	if b.joinLocked(j, now) {
		return false
	}
	b.enqueueLocked(j, now)
	return true
}

// offer is submit for a job whose answer is in the cache already: it does not
// wait for a place. It reports false if there is none, and forgets j.
func (b *Backlog) offer(j *Job) bool {
	b.Mu.Lock()
	defer b.Mu.Unlock()
	now := b.Server.Now()
	if b.joinLocked(j, now) {
		return true
	}
	b.placeLocked(j)
	b.StartQueuedLocked(now, admission.Probes)
	if !b.Admission.Begin(&j.Place, now) {
		b.Admission.Leave(&j.Place)
		b.leaderGoneLocked(j)
		b.Counted.atOnce++
		return false
	}
	b.runLocked(j)
	return true
}

// joinLocked lets j wait for a leader of its key. Otherwise j leads from here
// on, or asks by itself.
func (b *Backlog) joinLocked(j *Job, now time.Time) (joined bool) {
	if j.Key == "" {
		return false
	}
	w := b.Waiters[j.Key]
	switch free := 2*j.Zone.Cache.Coalesce - b.Waits; {
	case w == nil:
		b.Waiters[j.Key] = &waiting{leaders: 1, Since: now}
		return false
	case now.Sub(w.Since) >= sides.LeadFor:
		w.leaders++
		w.Since = now
		j.again = true
		return false
	case len(w.jobs) < free:
		w.jobs = append(w.jobs, j)
		b.Waits++
		return true
	case len(w.jobs) == 0:
		j.Key = "" // other names have taken all the room
		return false
	}
	// The oldest of this name: all of one name wait for the same.
	b.Counted.Shed++
	w.jobs[0].release()
	copy(w.jobs, w.jobs[1:])
	w.jobs[len(w.jobs)-1] = j
	return true
}

// enqueueLocked lets j run now or later.
func (b *Backlog) enqueueLocked(j *Job, now time.Time) {
	b.placeLocked(j)
	b.StartQueuedLocked(now, admission.Probes)
	switch {
	case b.Admission.Begin(&j.Place, now):
		b.runLocked(j)
	case j.cached && b.Admission.BeginAtOnce(&j.Place, now):
		j.atOnce = true
		b.Counted.atOnce++
		b.runLocked(j)
	default:
		b.Counted.queued++
		b.Admission.Wait(&j.Place, now)
		b.shedLocked()
		b.tickLocked()
	}
}

// placeLocked gives j its place in the groups of its name.
func (b *Backlog) placeLocked(j *Job) {
	if j.Known() {
		return
	}
	j.Owner = j
	var buf [wire.MaxNameLen]byte
	name, zone, zoneLen := wire.AppendName(buf[:0], j.Packet), noZone, 1
	if z := b.Server.blockOf(name); z != nil {
		zone, zoneLen = z.Index, len(z.suffix)
	}
	b.Admission.Assign(&j.Place, zone, name, zoneLen)
}

// StartQueuedLocked starts those that have waited, as far as there is room.
func (b *Backlog) StartQueuedLocked(now time.Time, groups int) {
	for p := b.Admission.StartNext(now, groups); p != nil; p = b.Admission.StartNext(now, groups) {
		b.runLocked(jobOf(p))
	}
	b.shedLocked()
}

// jobOf returns the job whose place p is.
func jobOf(p *admission.Place) *Job {
	j, _ := p.Owner.(*Job)
	return j
}

func (b *Backlog) runLocked(j *Job) {
	b.pending.Add(1)
	go b.runJob(j)
}

// tickLocked makes sure that those who wait are looked at.
func (b *Backlog) tickLocked() {
	if b.ticking || b.Admission.Queued == 0 {
		return
	}
	b.ticking = true
	time.AfterFunc(queueTick, func() {
		b.Mu.Lock()
		defer b.Mu.Unlock()
		b.ticking = false
		b.StartQueuedLocked(b.Server.Now(), math.MaxInt)
		b.tickLocked()
	})
}

// startTransferLocked runs j apart from all others: it may wait for its client
// for as long as that reads slowly, and must not keep a place from them.
func (b *Backlog) startTransferLocked(j *Job) {
	if b.Transfers >= MaxTransfers {
		b.Counted.Shed++
		j.release()
		return
	}
	b.Transfers++
	go func() {
		b.Server.viaChain(j)
		j.release()
		b.Mu.Lock()
		defer b.Mu.Unlock()
		b.Transfers--
	}()
}

// shedLocked forgets the jobs that the admission has dropped.
func (b *Backlog) shedLocked() {
	for _, p := range b.Admission.TakeDropped() {
		b.Counted.Shed++
		jobOf(p).release()
		b.leaderGoneLocked(jobOf(p))
	}
}

// leaderGoneLocked forgets those that wait for j and for no other leader: they
// came after it but can't be answered before it.
func (b *Backlog) leaderGoneLocked(j *Job) {
	w := b.Waiters[j.Key]
	if j.Key == "" || w == nil {
		return
	}
	if w.leaders--; w.leaders > 0 {
		return
	}
	delete(b.Waiters, j.Key)
	for _, other := range w.jobs {
		other.release()
	}
	b.Counted.Shed += uint64(len(w.jobs))
	b.Waits -= len(w.jobs)
}

// run takes j through the chain.
func (b *Backlog) runJob(j *Job) {
	b.Server.viaChain(j)
	if b.finishJob(j, true) {
		return // it was not answered
	}
	b.Mu.Lock()
	defer b.Mu.Unlock()
	if j.State == admission.Idle {
		b.afterReply--
		if b.afterReply < unwatchAt/4 {
			b.Server.Unwatched.Store(false)
		}
		return
	}
	b.releaseLocked(j)
}

// replied gives back the place of j, whose reply is out though the chain has
// not come back: plugins may write a log, for as long as its reader takes.
func (b *Backlog) replied(j *Job) { b.finishJob(j, false) }

// finishJob answers those that wait for j, once. back says that the chain has
// come back.
func (b *Backlog) finishJob(j *Job, back bool) bool {
	if !j.over.CompareAndSwap(false, true) {
		return false
	}
	j.release()
	b.Mu.Lock()
	if back || b.afterReply < MaxAfter {
		b.releaseLocked(j)
		if !back {
			b.afterReply++
			if b.afterReply >= unwatchAt {
				b.Server.Unwatched.Store(true)
			}
		}
	}
	w := b.Waiters[j.Key]
	if j.Key == "" || w == nil {
		b.Mu.Unlock()
		return true
	}
	jobs := w.jobs
	w.jobs = nil
	b.Waits -= len(jobs)
	if w.leaders--; w.leaders == 0 {
		delete(b.Waiters, j.Key)
	}
	b.Mu.Unlock()
	if len(jobs) > 0 {
		b.answerWaiters(j.Key, jobs)
	}
	return true
}

// releaseLocked ends the part of j in the admission and lets others begin.
func (b *Backlog) releaseLocked(j *Job) {
	now := b.Server.Now()
	b.Admission.End(&j.Place, now)
	b.pending.Add(-1)
	b.StartQueuedLocked(now, admission.Probes)
}

// answerWaiters answers jobs, which have waited for a leader of key.
func (b *Backlog) answerWaiters(key string, jobs []*Job) {
	var left []*Job
	buf := make([]byte, 0, fastpath.MaxPacket)
	for _, other := range jobs {
		if b.Server.answerFromCache(other, buf) {
			other.release()
		} else {
			left = append(left, other)
		}
	}
	if len(left) == 0 {
		return
	}
	b.Mu.Lock()
	defer b.Mu.Unlock()
	now := b.Server.Now()
	// The answer is not one to share (truncated, refused, an error). Another
	// leader may bring one; without any, each asks for itself, as in the chain.
	if w := b.Waiters[key]; w != nil {
		w.jobs = append(w.jobs, left...)
		b.Waits += len(left)
		return
	}
	for _, other := range left {
		other.Key = ""
		b.enqueueLocked(other, now)
	}
}

// TakeCounts returns what has become of jobs since the last call.
func (b *Backlog) TakeCounts() BacklogCounts {
	b.Mu.Lock()
	defer b.Mu.Unlock()
	n := b.Counted
	b.Counted = BacklogCounts{}
	return n
}

// Levels returns how many jobs are in which state.
func (b *Backlog) Levels() (quick, long, after, queued int) {
	b.Mu.Lock()
	defer b.Mu.Unlock()
	b.Admission.Age(b.Server.Now())
	return b.Admission.Quick, b.Admission.Long, b.afterReply, b.Admission.Queued
}

// answerFromCache answers a job that has waited, from the cache if it can.
func (f *Server) answerFromCache(j *Job, buf []byte) bool {
	workers := f.Workers
	if j.conn != nil {
		workers = f.Streams
	}
	w := workers[len(workers)-1]
	w.Mu.Lock()
	defer w.Mu.Unlock()
	reply, a, why := f.Answer(w, j.Packet, buf, f.Now())
	if why != meters.Understood {
		return false
	}
	z := a.Zone
	if z.Counted {
		w.CountQuery(&z.Zone, &a.Q, len(j.Packet), j.ipv4)
		w.CountDuration(0)
	}
	w.CountWait(&z.Zone, w.kind)
	if err := j.send(reply); err != nil {
		f.debugf("reply to %s: %v", j.peer(), err)
	}
	return true
}

// send sends a reply to the client without waiting for it.
func (j *Job) send(reply []byte) error {
	if j.conn != nil {
		return j.conn.Send(reply)
	}
	return j.origin.Send(reply)
}

// peer is the address of the client.
func (j *Job) peer() netip.AddrPort {
	if j.conn != nil {
		return j.conn.Peer()
	}
	return j.origin.Peer()
}

// release says that nothing more will be sent.
func (j *Job) release() {
	if j.conn != nil {
		j.conn.Done()
	}
}
