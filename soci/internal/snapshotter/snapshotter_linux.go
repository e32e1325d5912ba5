package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/containerd/v2/pkg/snapshotters"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay/overlayutils"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
)

// Snapshotter implements containerd's snapshots.Snapshotter. Make it with [New];
// close it.
type Snapshotter struct {
	snapshots.Snapshotter // what is ordinary: containerd's own, over overlayfs

	opts      Options
	meta      *storage.MetaStore
	store     *store
	userXattr bool
	remaps    bool // mounts map the IDs of user namespaces
	metrics   *metrics
	slots     *slotKeeper // of layers being extracted

	life   context.Context //nolint:containedctx // of the jobs, which outlive the calls that start them
	cancel context.CancelCauseFunc
	jobs   sync.WaitGroup // goroutines
	close  func() error   // once

	copied sync.Once // a warning

	// paths is held for reading while someone reads lower layers by name, for
	// writing while a layer's directory is renamed.
	paths sync.RWMutex

	mu     sync.Mutex // guards what follows; a leaf lock but for reads of the metadata store
	closed bool
	byName map[string]*job          // by repository and manifest
	layers map[digest.Digest]*layer // by chain ID; those that are no snapshots yet
	// begun are the layers that lie in work, to be gone on with, and since when. None is in
	// layers.
	begun map[digest.Digest]time.Time
}

// ErrClosed ends what runs when the Snapshotter is closed.
var ErrClosed = fmt.Errorf("the snapshotter is being stopped: %w", errdefs.ErrUnavailable)

// New opens or creates the root, removes what an earlier run left half-done, and
// takes over what it had finished.
func New(opts Options) (_ *Snapshotter, err error) {
	if err := opts.Validate(); err != nil {
		return nil, err
	}
	if opts.Puller == nil {
		return nil, errors.New("no puller: make one with soci.New")
	}
	opts = opts.withDefaults()
	s := &Snapshotter{
		opts:   opts,
		byName: make(map[string]*job),
		layers: make(map[digest.Digest]*layer),
		begun:  make(map[digest.Digest]time.Time),
	}
	if s.store, err = openStore(opts.Root, !opts.NoSync); err != nil {
		return nil, fmt.Errorf("root directory: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.store.lock.Close())
		}
	}()
	if s.userXattr, err = overlayutils.NeedsUserXAttr(opts.Root); err != nil {
		return nil, fmt.Errorf("can not tell how overlayfs has to be mounted in %s: %w", opts.Root, err)
	}
	if s.meta, err = storage.NewMetaStore(filepath.Join(opts.Root, "metadata.db")); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.meta.Close())
		}
	}()
	// Without the capability containerd changes the owners in a copy of the image; a mount that
	// mapped them too would shift them twice.
	s.remaps = slices.Contains(Capabilities(), RemapIDs)
	overlayOpts := []overlay.Opt{overlay.WithMetaStore(s.meta), overlay.AsynchronousRemove}
	if s.remaps {
		overlayOpts = append(overlayOpts, overlay.WithRemapIDs)
	}
	if s.Snapshotter, err = overlay.NewSnapshotter(opts.Root, overlayOpts...); err != nil {
		return nil, err
	}
	if err := s.takeOver(context.Background()); err != nil {
		return nil, err
	}
	if s.metrics, err = newMetrics(opts.Metrics, s); err != nil {
		return nil, err
	}
	s.slots = newSlotKeeper(opts.Layers, opts.Stall, s.metrics.yields.Inc)
	s.life, s.cancel = context.WithCancelCause(context.Background())
	s.close = sync.OnceValue(s.shut)
	s.jobs.Go(s.sweep)
	return s, nil
}

// takeOver makes the disk and the memory agree.
func (s *Snapshotter) takeOver(ctx context.Context) error {
	var ids map[string]string
	err := s.meta.WithTransaction(ctx, true, func(ctx context.Context) (err error) {
		ids, err = storage.IDMap(ctx)
		return err
	})
	if err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	if err := s.heal(ctx, ids); err != nil {
		return err
	}
	begun, err := s.store.recover(ids, s.userXattr)
	if err != nil {
		return err
	}
	for _, chain := range begun {
		s.begun[chain] = time.Now()
	}
	if err := s.Cleanup(ctx); err != nil {
		return err
	}
	records, err := s.store.scan(s.userXattr)
	if err != nil {
		return err
	}
	for _, r := range records {
		if _, ok := s.begun[r.Chain]; ok { // it is there, by another run
			delete(s.begun, r.Chain)
			if err := s.store.forget(r.Chain); err != nil {
				return err
			}
		}
		l := newLayer(r.Chain)
		l.dir, l.record = filepath.Join(s.store.ready(r.Chain), layerDir), r
		l.idle = time.Now()
		close(l.done)
		s.layers[r.Chain] = l
	}
	if len(records)+len(s.begun) > 0 {
		s.opts.Log.Info("took over layers of an earlier run", "layers", len(records), "begun", len(s.begun))
	}
	return nil
}

// RemapIDs is the capability of a snapshotter whose mounts shift the owners of files into a user
// namespace.
const RemapIDs = "remap-ids"

// Capabilities returns what containerd's configuration must list as capabilities of the
// snapshotter on this kernel.
func Capabilities() []string {
	if ok, err := overlayutils.SupportsIDMappedMounts(); err != nil || !ok {
		return nil
	}
	return []string{RemapIDs}
}

// warnCopy tells, once, that containerd makes a copy of an image for a range of IDs, which the
// mount would have mapped.
func (s *Snapshotter) warnCopy(ctx context.Context, key string) {
	if s.remaps && strings.HasSuffix(key, "-remap") {
		s.copied.Do(func() {
			s.opts.Log.WarnContext(ctx, `containerd copies images for user namespaces, and their files will belong to nobody: write capabilities = ["remap-ids"] below [proxy_plugins.penstock] in its configuration`)
		})
	}
}

// heal gives snapshots without a directory the ready layer that they are of, and removes from the
// metadata store those for which there is none, so that nobody mounts them. A file system may have
// lost the directory in a power cut, or somebody removed it.
func (s *Snapshotter) heal(ctx context.Context, keys map[string]string) error {
	healed, missing, err := s.store.heal(keys, s.userXattr)
	if err != nil {
		return err
	}
	for _, key := range healed {
		s.opts.Log.Warn("a snapshot had lost its directory, which was still among the ready layers", "snapshot", key)
	}
	// From the top down: a snapshot with another one above it can not be removed.
	for again := true; again && len(missing) > 0; {
		again = false
		missing = slices.DeleteFunc(missing, func(key string) bool {
			var info snapshots.Info
			rerr := s.meta.WithTransaction(ctx, true, func(ctx context.Context) (err error) {
				if _, info, _, err = storage.GetInfo(ctx, key); err != nil {
					return err
				}
				_, _, err = storage.Remove(ctx, key)
				return err
			})
			switch {
			case errdefs.IsFailedPrecondition(rerr):
				return false
			case rerr != nil:
				err = errors.Join(err, rerr)
			default:
				again = true
				s.opts.Log.Error("a snapshot had lost its directory, and was removed: remove its image or container, and pull again",
					"snapshot", key, "image", info.Labels[snapshotters.TargetRefLabel])
			}
			return true
		})
	}
	for _, key := range missing {
		s.opts.Log.Error("a snapshot has lost its directory, and others lie above it: remove the images and containers that use it, and pull again", "snapshot", key)
	}
	return err
}

// Close ends all pulls and returns when nothing runs any more. Snapshots stay.
func (s *Snapshotter) Close() error { return s.close() }

func (s *Snapshotter) shut() error {
	s.Stop()
	s.jobs.Wait()
	s.slots.close()
	s.metrics.unregister()
	return errors.Join(s.Snapshotter.Close(), s.store.lock.Close()) // the first closes the metadata store too
}

// Stop cancels all pulls, so that every Prepare returns.
func (s *Snapshotter) Stop() {
	s.mu.Lock()
	s.closed = true
	for _, j := range s.byName {
		j.stopTimer()
	}
	s.mu.Unlock()
	s.cancel(ErrClosed)
}

// Prepare makes an active snapshot, or fetches a layer and answers ErrAlreadyExists.
func (s *Snapshotter) Prepare(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	var base snapshots.Info
	for _, o := range opts {
		if err := o(&base); err != nil {
			return nil, err
		}
	}
	r, err := parseLabels(base.Labels)
	if err != nil {
		if !errors.Is(err, errOrdinary) {
			s.fallBack(ctx, r, "labels", err)
		}
		s.warnCopy(ctx, key)
		return s.Snapshotter.Prepare(ctx, key, parent, opts...)
	}
	start := time.Now()
	err = s.remote(ctx, r, key, parent, opts)
	if cause := context.Cause(s.life); err != nil && cause != nil {
		return nil, cause // whatever failed in its wake
	}
	if reason, ok := fallback(err); ok && ctx.Err() == nil { // a caller that is gone needs no mount
		s.fallBack(ctx, r, reason, err)
		return s.Snapshotter.Prepare(ctx, key, parent, opts...)
	}
	if err == nil {
		s.metrics.prepared(start)
		return nil, fmt.Errorf("layer %s: %w", r.target, errdefs.ErrAlreadyExists)
	}
	s.opts.Log.Warn("layer failed", "image", r.image, "chain", r.target, "error", err)
	if full(err) {
		err = exhausted{err}
	}
	return nil, err
}

func (s *Snapshotter) fallBack(ctx context.Context, r request, reason string, err error) {
	s.metrics.fellBack(reason)
	s.opts.Log.WarnContext(ctx, "left to containerd", "image", r.image, "layer", r.layer, "reason", reason, "error", err)
}

// remote returns nil when the wanted layer is a committed snapshot.
func (s *Snapshotter) remote(ctx context.Context, r request, key, parent string, opts []snapshots.Opt) error {
	// Twice at most: what has been found or fetched may be removed before it is claimed.
	const tries = 3
	var err error
	for range tries {
		var there bool
		if there, err = s.exists(ctx, r.target, parent); there || err != nil {
			return err
		}
		var stack []*layer
		var leave func()
		if stack, leave, err = s.join(ctx, r, parent); err != nil {
			return err
		}
		if stack == nil {
			continue // another one committed it meanwhile
		}
		err = s.claim(ctx, stack, key, parent, opts)
		leave()
		if !errors.Is(err, errGone) {
			return err
		}
	}
	return fmt.Errorf("layer %s vanished %d times: %w", r.target, tries, errdefs.ErrUnavailable)
}

// claim waits for the wanted layer, the first of the stack, and for all above it, and
// commits the first. An image that fails later would leave snapshots that belong to
// none, and containerd would collect them at once: what is ready stays for the next
// attempt, what is committed does not.
func (s *Snapshotter) claim(ctx context.Context, stack []*layer, key, parent string, opts []snapshots.Opt) error {
	for i, l := range stack {
		select {
		case <-l.done:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if l.err == nil {
			continue
		}
		if _, ok := fallback(l.err); ok && i > 0 {
			break // containerd will get that one; this one is good
		}
		return l.err
	}
	return s.commit(ctx, stack[0], key, parent, opts)
}

// exists reports whether the chain is a committed snapshot above parent.
func (s *Snapshotter) exists(ctx context.Context, chain digest.Digest, parent string) (bool, error) {
	info, err := s.Snapshotter.Stat(ctx, chain.String())
	switch {
	case errdefs.IsNotFound(err):
		return false, nil
	case err != nil:
		return false, err
	case info.Kind != snapshots.KindCommitted || info.Parent != parent:
		// The same content above a snapshot of another name: of another namespace,
		// unpacked by containerd.
		return false, fmt.Errorf("%w: %s is there, but above %q, not %q", errMismatch, chain, info.Parent, parent)
	}
	return true, nil
}

// errGone: a layer was ready and is not there any more.
var errGone = errors.New("layer is gone")

// commit makes a ready layer a snapshot.
func (s *Snapshotter) commit(ctx context.Context, l *layer, key, parent string, opts []snapshots.Opt) (err error) {
	s.paths.Lock()
	defer s.paths.Unlock()
	from, to := filepath.Dir(l.dir), ""
	defer func() {
		if err != nil && to != "" {
			if rerr := os.Rename(to, from); rerr != nil {
				err = errors.Join(err, rerr)
			}
		}
	}()
	if l.taken {
		there, err := s.exists(ctx, l.chain, parent)
		if err == nil && !there {
			err = errGone
		}
		return err
	}
	err = s.meta.WithTransaction(ctx, true, func(ctx context.Context) error {
		snap, err := storage.CreateSnapshot(ctx, snapshots.KindActive, key, parent, opts...)
		if err != nil {
			return err
		}
		usage := snapshots.Usage{Size: l.record.Bytes, Inodes: l.record.Inodes}
		if _, err := storage.CommitActive(ctx, key, l.chain.String(), usage, opts...); err != nil {
			return err
		}
		if err := s.store.take(from, snap.ID); err != nil {
			return err
		}
		to = s.store.snapshot(snap.ID)
		return nil
	})
	if err != nil {
		return fmt.Errorf("commit %s: %w", l.chain, err)
	}
	l.dir, l.taken = filepath.Join(to, layerDir), true
	s.mu.Lock()
	delete(s.layers, l.chain)
	s.mu.Unlock()
	s.metrics.committed()
	s.opts.Log.DebugContext(ctx, "committed", "chain", l.chain, "bytes", l.record.Bytes)
	return nil
}

// Cleanup removes the directories of no snapshot: containerd calls it after it has
// collected garbage. Layers of pulls that go on, and ready ones, stay.
func (s *Snapshotter) Cleanup(ctx context.Context) error {
	var away []string
	s.paths.Lock() // a layer in work may be looking at what has just been removed below it
	// A write transaction: none that makes a directory can run beside it.
	err := s.meta.WithTransaction(ctx, true, func(ctx context.Context) error {
		ids, err := storage.IDMap(ctx)
		if err != nil && !errdefs.IsNotFound(err) { // there never was a snapshot
			return err
		}
		away, err = s.store.orphans(ids)
		return err
	})
	s.paths.Unlock()
	for _, dir := range away {
		err = errors.Join(err, os.RemoveAll(dir))
	}
	return err
}

// below returns the directories of a committed snapshot and all below it, nearest
// first.
func (s *Snapshotter) below(ctx context.Context, name string) (dirs []string, err error) {
	err = s.meta.WithTransaction(ctx, false, func(ctx context.Context) error {
		for name != "" {
			id, info, _, err := storage.GetInfo(ctx, name)
			if err != nil {
				return err
			}
			dirs = append(dirs, filepath.Join(s.store.snapshot(id), layerDir))
			name = info.Parent
		}
		return nil
	})
	return dirs, err
}
