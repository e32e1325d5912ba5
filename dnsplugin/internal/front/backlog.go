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

// ChainLimits bound the queries of one address that are in the plugin chain or
// wait for it. A running query is a goroutine of 16 to 20 KiB, and a waiting one
// takes 400 bytes, so while sources are silent they take 120 MiB at most.
var ChainLimits = admission.Limits{
	// With a source that takes 20 ms, this allows 100,000 misses a second. A
	// listener with one zone gets four fifths of them.
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
	// MaxAfter bounds the goroutines of an address that have answered their query
	// but are still in the chain, for example in a log whose reader has stopped.
	// Further queries keep their places until they return from the chain.
	MaxAfter = 4096
	// unwatchAt is the number of them from which on cached answers bypass plugins
	// that only watch. The plugins see queries again at a quarter of the number.
	unwatchAt = MaxAfter / 2
	// MaxTransfers bounds the zone transfers of one address. It allows for the
	// secondaries of any zone.
	MaxTransfers = 256
	// queueTick is how often waiting queries are reconsidered without other events.
	queueTick = 100 * time.Millisecond
	// noZone stands for the index of the zone of a name outside of all zones.
	noZone = 1<<16 - 1
)

// Job is a query for the chain. It shares no memory with the batch.
type Job struct {
	admission.Place
	Packet []byte
	origin fastpath.Origin // if conn is nil
	conn   *fastpath.Conn  // held until the job is over
	ipv4   bool
	// The answer is many messages, each of which is sent when the client has
	// received the one before. A transfer has a conn.
	transfer bool

	Zone *Zone  // set with key
	Key  string // of the question and its shape; "" if other jobs may not wait for it

	again bool // asks although another leader of its key is still asking

	// The cache has an answer, fresh or stale. If there is no place in the chain
	// for a query that may wait, the chain serves it without asking the source.
	cached bool
	atOnce bool // the chain must do so

	over atomic.Bool // answered, returned from the chain, or dropped
}

// packetJob makes a job of packet i of b.
func packetJob(b *fastpath.Batch, i int) *Job {
	return &Job{Packet: bytes.Clone(b.Packet(i)), origin: b.Origin(i), ipv4: b.IPv4(i)}
}

// Backlog takes jobs from the sockets to the chain. Submitting a job never
// blocks; internal/admission decides which jobs run, wait, or are dropped.
//
// A job with a key leads the jobs of the same key that arrive after it. They wait
// until it is finished and are then answered from the cache. So many misses of
// one name send one query to the chain, and cost a few hundred bytes each while
// they wait. If a leader takes long, another job of its key becomes a leader as
// well, because the source may have dropped the first question.
type Backlog struct {
	Server *Server

	Mu         sync.Mutex // guards all below; held for a few map and list operations
	Admission  *admission.Control
	Waiters    map[string]*waiting // by key, for each key with leaders
	Waits      int                 // number of jobs in all of Waiters
	afterReply int                 // goroutines that have answered but are still in the chain
	Transfers  int                 // running transfers, which have no place in the admission
	ticking    bool                // a timer of tickLocked is set
	Counted    BacklogCounts       // since TakeCounts

	pending atomic.Int64 // queued and running jobs; read by workers
}

// BacklogCounts counts how jobs were treated.
type BacklogCounts struct {
	Shed   uint64 // dropped
	queued uint64 // had to wait for a place
	atOnce uint64 // served from the cache without asking the source, because there was no place
}

// waiting holds the jobs of a key that wait for its leaders.
type waiting struct {
	jobs    []*Job
	leaders int
	Since   time.Time // when the latest leader started to ask
}

func newBacklog(f *Server) *Backlog {
	return &Backlog{Server: f, Waiters: map[string]*waiting{}, Admission: admission.New(ChainLimits)}
}

// Busy reports whether jobs are queued or running.
func (b *Backlog) Busy() bool { return b.pending.Load() > 0 }

// Submit takes j. It reports whether a goroutine may have been started.
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

// offer is Submit for a job whose answer is in the cache. It does not queue j for
// a place; if there is none, it reports false and drops j.
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

// joinLocked makes j wait for a leader of its key and reports true. Otherwise j
// becomes a leader, or asks for itself. Mu must be held, as for all functions
// whose names end in Locked.
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
		j.Key = "" // jobs of other names use up the bound
		return false
	}
	// Drop the oldest job of this name, whose client is nearest to giving up.
	b.Counted.Shed++
	w.jobs[0].release()
	copy(w.jobs, w.jobs[1:])
	w.jobs[len(w.jobs)-1] = j
	return true
}

// enqueueLocked runs j now or queues it.
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

// placeLocked assigns j to the groups of its name.
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

// StartQueuedLocked starts queued jobs as far as there are places. It looks at
// the given number of groups.
func (b *Backlog) StartQueuedLocked(now time.Time, groups int) {
	for p := b.Admission.StartNext(now, groups); p != nil; p = b.Admission.StartNext(now, groups) {
		b.runLocked(jobOf(p))
	}
	b.shedLocked()
}

// jobOf returns the job of a place.
func jobOf(p *admission.Place) *Job {
	j, _ := p.Owner.(*Job)
	return j
}

func (b *Backlog) runLocked(j *Job) {
	b.pending.Add(1)
	go b.runJob(j)
}

// tickLocked sets a timer that reconsiders queued jobs, if there are any.
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

// startTransferLocked runs a transfer outside of the admission, because it may
// wait for a slow client for a long time.
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

// shedLocked removes the jobs that the admission has dropped.
func (b *Backlog) shedLocked() {
	for _, p := range b.Admission.TakeDropped() {
		b.Counted.Shed++
		jobOf(p).release()
		b.leaderGoneLocked(jobOf(p))
	}
}

// leaderGoneLocked drops the jobs that wait for the dropped leader j, unless
// there is another leader of their key.
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

// runJob takes j through the chain.
func (b *Backlog) runJob(j *Job) {
	b.Server.viaChain(j)
	if b.finishJob(j, true) {
		return // the chain wrote no reply
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

// replied releases the place of j when its reply is sent. The chain may return
// much later, for example because a plugin writes a log.
func (b *Backlog) replied(j *Job) { b.finishJob(j, false) }

// finishJob answers the jobs that wait for j. Only the first call for j has an
// effect, and reports true. back says that the chain has returned.
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

// releaseLocked releases the place of j and starts queued jobs.
func (b *Backlog) releaseLocked(j *Job) {
	now := b.Server.Now()
	b.Admission.End(&j.Place, now)
	b.pending.Add(-1)
	b.StartQueuedLocked(now, admission.Probes)
}

// answerWaiters answers jobs that have waited for a leader of key.
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
	// The answer cannot be shared (truncated, refused, an error). Wait for
	// another leader, or if there is none, let each ask for itself.
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

// TakeCounts returns the counts since the last call.
func (b *Backlog) TakeCounts() BacklogCounts {
	b.Mu.Lock()
	defer b.Mu.Unlock()
	n := b.Counted
	b.Counted = BacklogCounts{}
	return n
}

// Levels returns the number of jobs in each state.
func (b *Backlog) Levels() (quick, long, after, queued int) {
	b.Mu.Lock()
	defer b.Mu.Unlock()
	b.Admission.Age(b.Server.Now())
	return b.Admission.Quick, b.Admission.Long, b.afterReply, b.Admission.Queued
}

// answerFromCache answers a job that has waited. It reports false if the cache
// has no answer.
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

// send sends a reply to the client without waiting for the client.
func (j *Job) send(reply []byte) error {
	if j.conn != nil {
		return j.conn.Send(reply)
	}
	return j.origin.Send(reply)
}

// peer returns the address of the client.
func (j *Job) peer() netip.AddrPort {
	if j.conn != nil {
		return j.conn.Peer()
	}
	return j.origin.Peer()
}

// release releases the connection, because nothing more will be sent.
func (j *Job) release() {
	if j.conn != nil {
		j.conn.Done()
	}
}
