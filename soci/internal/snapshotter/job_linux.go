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
	waiters int         // calls that wait for the job
	fetches int64       // compressed bytes of the layers that this job started
	timer   *time.Timer // ends the job while no call waits
	holds   map[*layer]bool
}

// layer is one chain ID that is not a snapshot yet.
type layer struct {
	chain digest.Digest
	path  []digest.Digest // the chain IDs up to this layer; nil if it never was in work
	done  chan struct{}
	// Written before done is closed. dir then changes once more, under paths.
	record record
	err    error
	dir    string // of the files
	taken  bool   // guarded by paths: the layer is a snapshot now

	// Guarded by Snapshotter.mu.
	holders   []*job  // in the order in which they joined
	from      *job    // provides the image of the current attempt
	failed    []*job  // whose images provided a failed attempt
	ticket    *ticket // for a slot; nil before the layer is queued
	pace      *rate.Limiter
	cancel    context.CancelCauseFunc
	idle      time.Time // when the last job let go of the layer
	lower     []*layer  // the layers that this one waits for
	cancelled bool      // its work was cancelled; it may still succeed
}

func newLayer(chain digest.Digest) *layer {
	return &layer{chain: chain, done: make(chan struct{}), cancel: func(error) {}}
}

// errAbandoned ends a job that no call waits for.
var errAbandoned = errors.New("no caller waits for this image")

// join finds or starts the job of a request. It returns the requested layer and
// all layers above it, or nil if the requested one is a snapshot by now. If it
// returns layers, the caller must call leave when it stops waiting.
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

// find compares a request with the manifest and returns its layer and those
// above.
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
		// With another parent, this layer would give other users of the chain
		// ID a wrong file system.
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

// job returns the job of a manifest, and counts the caller as a waiter.
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
		j.pace.SetLimit(rate.Inf) // a caller without a rate needs the image now
	}
	s.addWaitersLocked(j, 1)
	j.stopTimer()
	return j, nil
}

// addWaitersLocked adds n to the callers that wait for a job. mu must be held.
func (s *Snapshotter) addWaitersLocked(j *job, n int) {
	before := j.waiters > 0
	j.waiters += n
	after := j.waiters > 0
	if before == after {
		return
	}
	for l := range j.holds {
		s.updateTicketLocked(l)
	}
}

// updateTicketLocked updates the ticket of a layer after a change of its
// callers. mu must be held.
func (s *Snapshotter) updateTicketLocked(l *layer) {
	if l.ticket != nil && !isDone(l) {
		s.slots.want(l.ticket, l.wantedLocked(), l.sharersLocked())
	}
}

// wantedLocked reports whether callers wait for the layer. mu must be held.
func (l *layer) wantedLocked() bool {
	return slices.ContainsFunc(l.holders, func(j *job) bool { return j.waiters > 0 })
}

// sharersLocked returns the images that callers wait for and that can provide
// the layer, without those with which an attempt has failed. mu must be held.
func (l *layer) sharersLocked() (images []string) {
	for _, j := range l.holders {
		if j.waiters > 0 && l.fits(j) && !slices.Contains(l.failed, j) {
			images = append(images, j.name)
		}
	}
	return images
}

// fits reports whether the image of a job can provide the layer, that is, has
// the layer above the same lower layers. An image with the chain ID at another
// position has wrong metadata, which must not get into a snapshot.
func (l *layer) fits(j *job) bool {
	return len(j.chains) >= len(l.path) && slices.Equal(j.chains[:len(l.path)], l.path)
}

// paceBurst is the number of bytes that may arrive at once under a rate.
const paceBurst = 256 << 10

func limitOf(bytesPerSecond int64) rate.Limit {
	if bytesPerSecond == 0 {
		return rate.Inf
	}
	return rate.Limit(bytesPerSecond)
}

// throttle waits until the rate of the job allows n more bytes, or ctx ends.
func (j *job) throttle(ctx context.Context, n int64) {
	for ; n > 0 && j.pace.Limit() != rate.Inf; n -= paceBurst {
		if j.pace.WaitN(ctx, int(min(n, paceBurst))) != nil {
			return // the pipeline checks the context itself
		}
	}
}

func (j *job) stopTimer() {
	if j.timer != nil {
		j.timer.Stop()
		j.timer = nil
	}
}

// leave removes a waiter. The last one starts the timer that ends the job.
func (s *Snapshotter) leave(j *job) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.addWaitersLocked(j, -1)
	if j.waiters > 0 || s.closed {
		return
	}
	if len(j.holds) > 0 && !s.pendingLocked(j) {
		s.endLocked(j, nil) // all its layers are snapshots
		return
	}
	j.timer = time.AfterFunc(max(0, s.opts.Linger), func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if j.waiters == 0 {
			s.endLocked(j, errAbandoned)
		}
	})
}

// pendingLocked reports whether a layer of the job is not a snapshot yet. mu
// must be held.
func (s *Snapshotter) pendingLocked(j *job) bool {
	for l := range j.holds {
		if s.layers[l.chain] == l {
			return true
		}
	}
	return false
}

// endLocked removes a job and cancels the layers that no other job holds. mu
// must be held.
func (s *Snapshotter) endLocked(j *job, cause error) {
	if s.byName[j.name] == j {
		delete(s.byName, j.name)
	}
	j.stopTimer()
	for l := range j.holds {
		l.holders = slices.DeleteFunc(l.holders, func(h *job) bool { return h == j })
		s.updateTicketLocked(l)
		if len(l.holders) == 0 {
			l.idle, l.cancelled = time.Now(), true
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
	if s.opts.Stall > 0 { // long enough for the small manifest and config
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

// ensure starts layer i and all layers above it unless they exist or are in
// work, and returns them, or nil if layer i is a snapshot. below holds the
// directories below layer i. If ensure returns a channel, it must be called
// again when the channel is closed.
func (s *Snapshotter) ensure(ctx context.Context, j *job, i int, below []string) (stack []*layer, wait <-chan struct{}, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, nil, ErrClosed
	}
	for _, chain := range j.chains[i:] {
		if l := s.layers[chain]; l != nil && l.doomedLocked() {
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
			if err == nil { // another image has made it a snapshot
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
			s.updateTicketLocked(l)
		}
		if l.pace != nil && l.pace.Limit() < j.pace.Limit() {
			l.pace.SetLimit(j.pace.Limit()) // a layer has the highest rate of its jobs
		}
		stack = append(stack, l)
	}
	if len(start) > 0 {
		s.launchLocked(j, i, start, stack, below)
	}
	return stack, nil, nil
}

// doomedLocked reports whether a layer in work is about to fail, because it was
// cancelled or a layer below it has failed. mu must be held.
func (l *layer) doomedLocked() bool {
	if isDone(l) {
		return false
	}
	return l.cancelled || slices.ContainsFunc(l.lower, func(b *layer) bool { return isDone(b) && b.err != nil })
}

// launchLocked starts layers. The largest one is first, because it ends last in
// any order. mu must be held.
func (s *Snapshotter) launchLocked(j *job, i int, start []int, stack []*layer, below []string) {
	slices.SortStableFunc(start, func(a, b int) int {
		return cmp.Compare(j.image.Layers[b].Size, j.image.Layers[a].Size)
	})
	for _, k := range start {
		ctx, cancel := context.WithCancelCause(s.life)
		l := stack[k-i]
		l.cancel, l.pace, l.lower, l.path = cancel, j.pace, stack[:k-i], j.chains[:k+1]
		delete(s.unfinished, l.chain)
		c := s.enqueueLocked(j, l, 0)
		s.jobs.Go(func() { s.finish(j, l, s.makeReady(ctx, j, l, c, k, below)) })
	}
}

// enqueueLocked queues a layer for a slot and chooses the image of its next
// attempt: first the image of the job that starts the layer, then its holders
// in rotation. mu must be held.
func (s *Snapshotter) enqueueLocked(j *job, l *layer, attempts int) *ticket {
	sharers := l.sharersLocked()
	if attempts == 0 {
		l.from = j
	} else if next := successor(sharers, l.from.name); next != l.from.name {
		l.from = l.holders[slices.IndexFunc(l.holders, func(h *job) bool { return h.name == next && l.fits(h) && !slices.Contains(l.failed, h) })]
	}
	l.ticket = &ticket{image: l.from.name, sharers: sharers, wanted: l.wantedLocked(), slice: attemptSlice(attempts, len(sharers))}
	s.slots.enqueue(l.ticket, func() bool { return j.pace.Limit() != rate.Inf })
	return l.ticket
}

// makeReady makes one layer ready. It takes several attempts if the layer
// yields its slot, or if one image fails and another one has the layer. An
// attempt resumes from the checkpoint of the last one, with any image, because
// the checkpoint belongs to the blob. The rate and the count of bytes belong to
// the job that started the layer.
func (s *Snapshotter) makeReady(ctx context.Context, j *job, l *layer, c *ticket, k int, below []string) error {
	from := j
	for attempts := 1; ; attempts++ {
		attempt, cancel, err := s.slots.await(ctx, c)
		if err != nil { // cancelled in the queue; there may be a checkpoint of an earlier attempt
			err = endedBy(ctx, err)
			return errors.Join(err, s.keepOrForget(l.chain, err))
		}
		err = s.fetch(attempt, j, from, l, c, k, below)
		yielded := errors.Is(context.Cause(attempt), errYield)
		cancel(nil)
		s.slots.release(c)
		if err == nil {
			return nil
		}
		err = endedBy(ctx, err)
		if ctx.Err() == nil && (yielded || s.otherImageRemains(l, err)) {
			if !s.store.resumable(l.chain) {
				if err := s.store.forget(l.chain); err != nil {
					return err
				}
			}
			s.mu.Lock()
			c = s.enqueueLocked(j, l, attempts)
			before := from
			from = l.from
			s.mu.Unlock()
			if yielded {
				s.opts.Log.Info("layer yields to others", "image", before.name, "chain", l.chain, "next", from.name)
			} else {
				s.opts.Log.Warn("layer failed with one image, trying another", "image", before.name, "chain", l.chain, "next", from.name, "err", err)
			}
			continue
		}
		return errors.Join(err, s.keepOrForget(l.chain, err))
	}
}

// otherImageRemains records a failed attempt, and reports whether another image
// has the layer. So a registry that refuses a layer, or sends wrong bytes, does
// not harm other images with that layer.
func (s *Snapshotter) otherImageRemains(l *layer, err error) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if full(err) || l.doomedLocked() {
		return false
	}
	l.failed = append(l.failed, l.from)
	return successor(l.sharersLocked(), l.from.name) != l.from.name
}

// finish publishes the outcome of a layer.
func (s *Snapshotter) finish(j *job, l *layer, err error) {
	l.cancel(nil)
	s.mu.Lock()
	l.err, l.lower = err, nil // so that upper layers do not keep lower ones in memory
	close(l.done)
	if err != nil && s.layers[l.chain] == l {
		delete(s.layers, l.chain)
	}
	switch {
	case full(err):
		s.endLocked(j, err) // its other layers would only take more of the full disk
		s.jobs.Go(s.freeDisk)
	case err != nil:
		// The next attempt gets a new job, with fresh limits. This job ends
		// like any other, and its other layers can be joined until then.
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

// fetch makes one layer ready with the image of a job. It holds a slot, which
// it releases before it waits for other layers, because they may need it.
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
			j.throttle(ctx, compressed)
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
		s.opts.Log.Warn("layer extracted with warnings", "image", from.name, "layer", u.Digest, "warning", w)
	}
	s.opts.Log.Info("layer ready", "image", from.name, "layer", u.Digest, "bytes", u.CompressedBytes, "resumed_at", u.ResumedAt, "resumed", u.Resumed, "files", u.Files,
		"wall", u.Timing.Wall, "network", u.Timing.Network, "inflate", u.Timing.Inflate, "hash", u.Timing.Hash, "write", u.Timing.Write)
	return nil
}

// keepOrForget keeps a failed layer in work if it can be resumed, and removes
// it otherwise. It removes a layer that the registry refuses us, which
// containerd then fetches, and any layer on a full disk. After a network
// failure it keeps the layer, because containerd may fail as well, and the next
// attempt resumes.
func (s *Snapshotter) keepOrForget(chain digest.Digest, err error) error {
	reason, left := fallback(err)
	if left && reason != reasonFetch || full(err) || !s.store.resumable(chain) {
		return s.store.forget(chain)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unfinished[chain] = time.Now()
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

// sweep periodically removes ready and unfinished layers that no job has held
// for Options.Keep.
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

// expire removes the layers that no job has held for Keep.
func (s *Snapshotter) expire(now time.Time) { s.removeIdle(now.Add(-s.opts.Keep)) }

// freeDisk removes all layers that no job holds from a full disk. They were
// kept only to save fetching them again.
func (s *Snapshotter) freeDisk() { s.removeIdle(time.Now()) }

// removeIdle removes the ready and unfinished layers that no job has held since
// a time.
func (s *Snapshotter) removeIdle(since time.Time) {
	for _, dir := range s.moveIdleAside(since) {
		if err := os.RemoveAll(dir); err != nil {
			s.opts.Log.Warn("cannot remove a layer", "dir", dir, "err", err)
		}
	}
}

// moveIdleAside renames the directories of idle layers and returns their new
// paths. It holds the locks, so that a later request for such a layer starts it
// again under its name.
func (s *Snapshotter) moveIdleAside(since time.Time) (away []string) {
	s.paths.RLock()
	defer s.paths.RUnlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	put := func(dir string, err error) {
		if err != nil {
			s.opts.Log.Warn("cannot remove a layer", "dir", dir, "err", err)
		} else if dir != "" {
			away = append(away, dir)
		}
	}
	for chain, l := range s.layers {
		if len(l.holders) == 0 && isDone(l) && l.err == nil && l.idle.Before(since) {
			delete(s.layers, chain)
			if !l.taken {
				put(s.store.moveAside(filepath.Dir(l.dir)))
			}
		}
	}
	for chain, idle := range s.unfinished {
		if idle.Before(since) {
			delete(s.unfinished, chain)
			put(s.store.moveAsideUnfinished(chain))
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
