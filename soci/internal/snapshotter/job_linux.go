package snapshotter

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	"golang.org/x/time/rate"

	"github.com/penstock/penstock/soci"
	"github.com/penstock/penstock/soci/internal/registry"
)

// job is one image being pulled.
type job struct {
	name     string // of the manifest, in s.byName
	resolved chan struct{}
	// Written before resolved is closed.
	image  *soci.Image
	chains []digest.Digest
	err    error

	ctx    context.Context //nolint:containedctx // of the job, which outlives the calls that wait for it
	cancel context.CancelCauseFunc
	pace   *rate.Limiter
	start  time.Time

	received atomic.Int64 // compressed bytes of the layers that this job started

	// Guarded by Snapshotter.mu.
	waiters int
	fetches int64       // compressed bytes of the layers that this job started
	timer   *time.Timer // to the end, while nobody waits
	holds   map[*layer]bool
}

// layer is one chain ID that is no snapshot yet.
type layer struct {
	chain digest.Digest
	path  []digest.Digest // the chain IDs up to it; nil if it never was in work
	done  chan struct{}
	// Written before done is closed. dir then changes once more, under paths.
	record record
	err    error
	dir    string // of the files
	taken  bool   // under paths: it is a snapshot now

	// Guarded by Snapshotter.mu.
	holders []*job  // in the order in which they came
	from    *job    // whose image the attempt in work, or in line, comes from
	failed  []*job  // from whose images an attempt has failed
	ticket  *ticket // for a slot; nil before it stands in line
	pace    *rate.Limiter
	cancel  context.CancelCauseFunc
	idle    time.Time // since when no job holds it
	lower   []*layer  // that it waits for
	ended   bool      // cancelled; it may still come to an end of either kind
}

func newLayer(chain digest.Digest) *layer {
	return &layer{chain: chain, done: make(chan struct{}), cancel: func(error) {}}
}

// errAbandoned ends what nobody waits for.
var errAbandoned = errors.New("nobody waits for this image any more")

// join finds or starts the job of a request and returns the wanted layer and all above
// it: nil if the wanted one is a snapshot by now. leave, if layers are returned, must
// be called when the caller waits no more.
func (s *Snapshotter) join(ctx context.Context, r request, parent string) (_ []*layer, leave func(), err error) {
	j, err := s.job(r)
	if err != nil {
		return nil, nil, err
	}
	stack, err := s.find(ctx, j, r, parent)
	if stack == nil {
		s.leave(j)
		return nil, nil, err
	}
	return stack, func() { s.leave(j) }, nil
}

// find compares a request with the manifest and returns its layer and those above.
func (s *Snapshotter) find(ctx context.Context, j *job, r request, parent string) ([]*layer, error) {
	select {
	case <-j.resolved:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if j.err != nil {
		return nil, j.err
	}
	i := slices.Index(j.chains, r.target)
	if i < 0 || j.image.Layers[i].Digest != r.layer.String() {
		return nil, fmt.Errorf("%w: manifest %s has no layer %s with chain ID %s", errMismatch, r.manifest, r.layer, r.target)
	}
	below, err := s.below(ctx, parent)
	if err != nil {
		return nil, err
	}
	if len(below) != i {
		return nil, fmt.Errorf("%w: layer %d above %d snapshots", errMismatch, i, len(below))
	}
	if i > 0 {
		// Whoever could put this layer above another parent would give everybody else a
		// wrong file system.
		info, err := s.Stat(ctx, parent)
		if err != nil {
			return nil, err
		}
		if want := j.chains[i-1].String(); parent != want && info.Labels[snapshots.LabelSnapshotRef] != want {
			return nil, fmt.Errorf("%w: layer %d above %q, which is not %s", errMismatch, i, parent, want)
		}
	}
	for {
		stack, wait, err := s.ensure(ctx, j, i, below)
		if wait == nil {
			return stack, err
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// job returns the job of a manifest, with the caller counted as one who waits.
func (s *Snapshotter) job(r request) (*job, error) {
	ref, err := registry.ParseReference(r.image)
	if err != nil {
		return nil, fmt.Errorf("%w: image %q: %w", errMismatch, r.image, err)
	}
	name := ref.At(r.manifest).String()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, ErrClosed
	}
	j := s.byName[name]
	if j == nil {
		j = &job{name: name, resolved: make(chan struct{}), start: time.Now(), holds: make(map[*layer]bool)}
		j.ctx, j.cancel = context.WithCancelCause(s.life)
		j.pace = rate.NewLimiter(limitOf(r.rate), paceBurst)
		s.byName[name] = j
		s.jobs.Go(func() { s.resolve(j) })
	} else if r.rate == 0 {
		j.pace.SetLimit(rate.Inf) // somebody needs it now
	}
	s.waits(j, 1)
	j.stopTimer()
	return j, nil
}

// waits counts callers that wait for a job. mu is held.
func (s *Snapshotter) waits(j *job, n int) {
	before := j.waiters > 0
	j.waiters += n
	after := j.waiters > 0
	if before == after {
		return
	}
	for l := range j.holds {
		s.want(l)
	}
}

// want tells the slots for which jobs of a layer callers wait. mu is held.
func (s *Snapshotter) want(l *layer) {
	if l.ticket != nil && !isDone(l) {
		s.slots.want(l.ticket, l.wanted(), l.sharers())
	}
}

// wanted reports whether callers wait for the layer. mu is held.
func (l *layer) wanted() bool {
	return slices.ContainsFunc(l.holders, func(j *job) bool { return j.waiters > 0 })
}

// sharers are the images that the layer can come from, and that callers wait for; without those from
// which an attempt has failed. mu is held.
func (l *layer) sharers() (images []string) {
	for _, j := range l.holders {
		if j.waiters > 0 && l.fits(j) && !slices.Contains(l.failed, j) {
			images = append(images, j.name)
		}
	}
	return images
}

// fits reports whether an attempt may come from the image of a job: it has the layer above the same
// ones. In another place the same chain ID would be a lie, which must not get into a snapshot.
func (l *layer) fits(j *job) bool {
	return len(j.chains) >= len(l.path) && slices.Equal(j.chains[:len(l.path)], l.path)
}

// paceBurst in bytes is what may come at once below a bounded rate.
const paceBurst = 256 << 10

func limitOf(bytesPerSecond int64) rate.Limit {
	if bytesPerSecond == 0 {
		return rate.Inf
	}
	return rate.Limit(bytesPerSecond)
}

// wait slows the caller down to the rate of the job.
func (j *job) wait(ctx context.Context, n int64) {
	for ; n > 0 && j.pace.Limit() != rate.Inf; n -= paceBurst {
		if j.pace.WaitN(ctx, int(min(n, paceBurst))) != nil {
			return // the pipeline looks at the context itself
		}
	}
}

func (j *job) stopTimer() {
	if j.timer != nil {
		j.timer.Stop()
		j.timer = nil
	}
}

// leave counts one down who waited. The last one arms the end of the job.
func (s *Snapshotter) leave(j *job) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waits(j, -1)
	if j.waiters > 0 || s.closed {
		return
	}
	if len(j.holds) > 0 && !s.pending(j) {
		s.end(j, nil) // all of it is snapshots
		return
	}
	j.timer = time.AfterFunc(max(0, s.opts.Linger), func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if j.waiters == 0 {
			s.end(j, errAbandoned)
		}
	})
}

// pending reports whether a layer of the job is not a snapshot yet. mu is held.
func (s *Snapshotter) pending(j *job) bool {
	for l := range j.holds {
		if s.layers[l.chain] == l {
			return true
		}
	}
	return false
}

// end forgets a job; what only it wanted is cancelled. mu is held.
func (s *Snapshotter) end(j *job, cause error) {
	if s.byName[j.name] == j {
		delete(s.byName, j.name)
	}
	j.stopTimer()
	for l := range j.holds {
		l.holders = slices.DeleteFunc(l.holders, func(h *job) bool { return h == j })
		s.want(l)
		if len(l.holders) == 0 {
			l.idle, l.ended = time.Now(), true
			l.cancel(cause)
		}
	}
	clear(j.holds)
	j.cancel(cause)
}

// resolve reads the manifest.
func (s *Snapshotter) resolve(j *job) {
	defer close(j.resolved)
	ctx := j.ctx
	if s.opts.Stall > 0 { // a manifest and a config are small
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, s.opts.Stall, errSlowManifest)
		defer cancel()
	}
	j.image, j.err = s.opts.Puller.Resolve(ctx, j.name)
	if j.err = endedBy(j.ctx, j.err); j.err != nil {
		return
	}
	for _, l := range j.image.Layers {
		j.chains = append(j.chains, digest.Digest(l.DiffID))
	}
	j.chains = identity.ChainIDs(j.chains)
	s.opts.Log.Info("pulling", "image", j.name, "layers", len(j.chains))
}

// ensure makes sure that layer i and all above it are there or in work, and returns
// them: nil if layer i is a snapshot. below are the directories below it. If wait is
// not nil, it must be called again when that is closed.
func (s *Snapshotter) ensure(ctx context.Context, j *job, i int, below []string) (stack []*layer, wait <-chan struct{}, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, nil, ErrClosed
	}
	for _, chain := range j.chains[i:] {
		if l := s.layers[chain]; l != nil && l.doomed() {
			return nil, l.done, nil
		}
	}
	var start []int
	for k := i; k < len(j.chains); k++ {
		l := s.layers[j.chains[k]]
		if l == nil {
			dirs, err := s.below(ctx, j.chains[k].String())
			if err == nil && k == i {
				return nil, nil, nil
			}
			l = newLayer(j.chains[k])
			if err == nil { // an image pulled before has it
				l.dir, l.taken = dirs[0], true
				close(l.done)
			} else {
				s.layers[l.chain] = l
				start = append(start, k)
				j.fetches += j.image.Layers[k].Size
			}
		}
		if !j.holds[l] {
			j.holds[l] = true
			l.holders = append(l.holders, j)
			s.want(l)
		}
		if l.pace != nil && l.pace.Limit() < j.pace.Limit() {
			l.pace.SetLimit(j.pace.Limit()) // whoever needs it most
		}
		stack = append(stack, l)
	}
	if len(start) > 0 {
		s.launch(j, i, start, stack, below)
	}
	return stack, nil, nil
}

// doomed reports whether a layer in work is about to fail: it has been cancelled, or
// one below it has failed. mu is held.
func (l *layer) doomed() bool {
	if isDone(l) {
		return false
	}
	return l.ended || slices.ContainsFunc(l.lower, func(b *layer) bool { return isDone(b) && b.err != nil })
}

// launch starts layers, the largest first: it ends last whatever the others do. mu is
// held.
func (s *Snapshotter) launch(j *job, i int, start []int, stack []*layer, below []string) {
	slices.SortStableFunc(start, func(a, b int) int {
		return cmp.Compare(j.image.Layers[b].Size, j.image.Layers[a].Size)
	})
	for _, k := range start {
		ctx, cancel := context.WithCancelCause(s.life)
		l := stack[k-i]
		l.cancel, l.pace, l.lower, l.path = cancel, j.pace, stack[:k-i], j.chains[:k+1]
		delete(s.begun, l.chain)
		c := s.enqueue(j, l, 0)
		s.jobs.Go(func() { s.finish(j, l, s.bring(ctx, j, l, c, k, below)) })
	}
}

// enqueue puts a layer in line for a slot, and chooses the image that its next attempt comes from: of
// the job that starts it, when there was no attempt before, then of its holders in turn. mu is held.
func (s *Snapshotter) enqueue(j *job, l *layer, attempts int) *ticket {
	sharers := l.sharers()
	if attempts == 0 {
		l.from = j
	} else if next := heir(sharers, l.from.name); next != l.from.name {
		l.from = l.holders[slices.IndexFunc(l.holders, func(h *job) bool { return h.name == next && l.fits(h) && !slices.Contains(l.failed, h) })]
	}
	l.ticket = &ticket{image: l.from.name, sharers: sharers, wanted: l.wanted(), patience: patience(attempts, len(sharers))}
	s.slots.enqueue(l.ticket, func() bool { return j.pace.Limit() != rate.Inf })
	return l.ticket
}

// bring makes one layer ready: in several attempts, when it had to yield its slot, or when one image
// failed and another one has the layer. What one attempt
// leaves the next one takes up, whichever image it comes from: the checkpoint names the blob. The rate
// and the count of bytes are of the job that started the layer.
func (s *Snapshotter) bring(ctx context.Context, j *job, l *layer, c *ticket, k int, below []string) error {
	from := j
	for attempts := 1; ; attempts++ {
		attempt, cancel, err := s.slots.await(ctx, c)
		if err != nil { // in line; an earlier run or attempt may have begun the layer
			err = endedBy(ctx, err)
			return errors.Join(err, s.setAside(l.chain, err))
		}
		err = s.fetch(attempt, j, from, l, c, k, below)
		yielded := errors.Is(context.Cause(attempt), errYield)
		cancel(nil)
		s.slots.release(c)
		if err == nil {
			return nil
		}
		err = endedBy(ctx, err)
		if ctx.Err() == nil && (yielded || s.others(l, err)) {
			if !s.store.resumable(l.chain) {
				if err := s.store.forget(l.chain); err != nil {
					return err
				}
			}
			s.mu.Lock()
			c = s.enqueue(j, l, attempts)
			before := from
			from = l.from
			s.mu.Unlock()
			if yielded {
				s.opts.Log.Info("layer yields to others", "image", before.name, "chain", l.chain, "next", from.name)
			} else {
				s.opts.Log.Warn("layer failed from one image, goes on from another", "image", before.name, "chain", l.chain, "next", from.name, "error", err)
			}
			continue
		}
		return errors.Join(err, s.setAside(l.chain, err))
	}
}

// others notes that an attempt has failed, and reports whether another image may do better. So an image
// whose registry refuses a layer, or sends wrong bytes, harms no other image that has the layer.
func (s *Snapshotter) others(l *layer, err error) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if full(err) || l.doomed() {
		return false
	}
	l.failed = append(l.failed, l.from)
	return heir(l.sharers(), l.from.name) != l.from.name
}

// finish makes the outcome of a layer known.
func (s *Snapshotter) finish(j *job, l *layer, err error) {
	l.cancel(nil)
	s.mu.Lock()
	l.err, l.lower = err, nil // upper ones must not keep lower ones alive
	close(l.done)
	if err != nil && s.layers[l.chain] == l {
		delete(s.layers, l.chain)
	}
	switch {
	case full(err):
		s.end(j, err) // its other layers would take from others what there is no more of
		s.jobs.Go(s.relieve)
	case err != nil:
		// The next attempt gets a new job, which counts its limits anew. This one ends
		// as any other does; until then its other layers are there to be joined.
		for _, h := range []*job{j, l.from} {
			if s.byName[h.name] == h {
				delete(s.byName, h.name)
			}
		}
	}
	l.from, l.failed = nil, nil
	s.mu.Unlock()
	s.metrics.layerDone(err)
}

// fetch makes one layer ready, from the image of a job. It has a slot, which it gives back before it waits
// for other layers: they may need it.
func (s *Snapshotter) fetch(ctx context.Context, j, from *job, l *layer, c *ticket, k int, below []string) error {
	work, err := s.store.begin(l.chain)
	if err != nil {
		return err
	}
	locked := false
	opts := soci.UnpackOptions{
		UserXattr:  s.userXattr,
		Checkpoint: s.store.part(l.chain),
		Resumed: func(compressed, _ int64) {
			s.metrics.resumed(compressed)
			j.received.Add(compressed)
		},
		Notify: func(compressed, tar int64) {
			s.metrics.bytes(compressed, tar)
			j.received.Add(compressed)
			j.wait(ctx, compressed)
		},
		Watch: func(flow func() (arrived int64, waiting bool)) { s.slots.watch(c, flow) },
		Lower: func(ctx context.Context) ([]string, error) {
			s.slots.release(c)
			if err := l.await(ctx); err != nil {
				return nil, err
			}
			s.paths.RLock()
			locked = true
			var dirs []string
			for _, b := range slices.Backward(l.lower) {
				dirs = append(dirs, b.dir)
			}
			return append(dirs, below...), nil
		},
	}
	u, err := s.opts.Puller.UnpackLayer(ctx, from.image, k, filepath.Join(work, layerDir), opts)
	if locked {
		s.paths.RUnlock()
	}
	if err == nil {
		l.record = record{Chain: l.chain, Digest: digest.Digest(u.Digest), Bytes: u.DiskBytes, Inodes: u.Inodes, UserXattr: s.userXattr}
		l.dir, err = s.store.finish(work, l.record)
		l.dir = filepath.Join(l.dir, layerDir)
	}
	if err != nil {
		return err
	}
	for _, w := range u.Warnings {
		s.opts.Log.Warn("layer extracted with warnings", "image", from.name, "layer", u.Digest, "what", w)
	}
	s.opts.Log.Info("layer ready", "image", from.name, "layer", u.Digest, "bytes", u.CompressedBytes, "resumed_at", u.ResumedAt, "resumed", u.Resumed, "files", u.Files,
		"wall", u.Timing.Wall, "network", u.Timing.Network, "inflate", u.Timing.Inflate, "hash", u.Timing.Hash, "write", u.Timing.Write)
	return nil
}

// setAside leaves a layer that failed in work if it can be resumed, and removes it
// otherwise. One that the registry refuses us is containerd's to fetch, and on a full disk
// others want the room. After a failure of the network containerd may fail as well: the next
// attempt resumes.
func (s *Snapshotter) setAside(chain digest.Digest, err error) error {
	reason, left := fallback(err)
	if left && reason != reasonFetch || full(err) || !s.store.resumable(chain) {
		return s.store.forget(chain)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.begun[chain] = time.Now()
	return nil
}

// await waits for the layers below.
func (l *layer) await(ctx context.Context) error {
	for _, b := range l.lower {
		select {
		case <-b.done:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if b.err != nil {
			return fmt.Errorf("the layer below, %s: %w", b.chain, b.err)
		}
	}
	return nil
}

// sweep removes ready and begun layers that nobody has claimed for long.
func (s *Snapshotter) sweep() {
	if s.opts.Keep < 0 {
		return
	}
	tick := time.NewTicker(max(time.Second, s.opts.Keep/10))
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			s.expire(time.Now())
		case <-s.life.Done():
			return
		}
	}
}

// expire removes the ready and begun layers that no job has held since Keep before now.
func (s *Snapshotter) expire(now time.Time) { s.removeIdle(now.Add(-s.opts.Keep)) }

// relieve makes room on a full disk: what no job holds was kept only to save fetching it.
func (s *Snapshotter) relieve() { s.removeIdle(time.Now()) }

// removeIdle removes the ready and begun layers that no job has held since a time.
func (s *Snapshotter) removeIdle(since time.Time) {
	for _, dir := range s.unheld(since) {
		if err := os.RemoveAll(dir); err != nil {
			s.opts.Log.Warn("can not remove a layer", "dir", dir, "error", err)
		}
	}
}

// unheld moves what is to be removed out of the way, and returns where it is. All of it
// under the locks: who wants such a layer a moment later begins it anew in its place.
func (s *Snapshotter) unheld(since time.Time) (away []string) {
	s.paths.RLock()
	defer s.paths.RUnlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	put := func(dir string, err error) {
		if err != nil {
			s.opts.Log.Warn("can not remove a layer", "dir", dir, "error", err)
		} else if dir != "" {
			away = append(away, dir)
		}
	}
	for chain, l := range s.layers {
		if len(l.holders) == 0 && isDone(l) && l.err == nil && l.idle.Before(since) {
			delete(s.layers, chain)
			if !l.taken {
				put(s.store.setAway(filepath.Dir(l.dir)))
			}
		}
	}
	for chain, idle := range s.begun {
		if idle.Before(since) {
			delete(s.begun, chain)
			put(s.store.setAwayBegun(chain))
		}
	}
	return away
}

func isDone(l *layer) bool {
	select {
	case <-l.done:
		return true
	default:
		return false
	}
}
