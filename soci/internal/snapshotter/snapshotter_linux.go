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

// Snapshotter implements containerd's snapshots.Snapshotter. It is made by
// [New] and must be closed.
type Snapshotter struct {
	snapshots.Snapshotter // containerd's own over overlayfs, for ordinary calls

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

	copied sync.Once // for the warning of warnCopy

	// paths is held for reading while lower layers are read by name, and for
	// writing while a layer's directory is renamed.
	paths sync.RWMutex

	mu     sync.Mutex // guards the fields below; held during reads of the metadata store, otherwise a leaf lock
	closed bool
	byName map[string]*job          // by repository and manifest
	layers map[digest.Digest]*layer // by chain ID; layers that are not snapshots yet
	// unfinished holds the layers with a checkpoint that are not in layers, and
	// the time of their last attempt.
	unfinished map[digest.Digest]time.Time
}

// ErrClosed ends running calls when the Snapshotter is closed.
var ErrClosed = fmt.Errorf("the snapshotter is being stopped: %w", errdefs.ErrUnavailable)

// New opens or creates the root. It takes over the layers of an earlier run
// that are ready or have a checkpoint, and removes the other leftovers.
func New(opts Options) (_ *Snapshotter, err error) {
	if err := opts.Validate(); err != nil {
		return nil, err
	}
	if opts.Puller == nil {
		return nil, errors.New("no puller: make one with soci.New")
	}
	opts = opts.withDefaults()
	s := &Snapshotter{
		opts:       opts,
		byName:     make(map[string]*job),
		layers:     make(map[digest.Digest]*layer),
		unfinished: make(map[digest.Digest]time.Time),
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
		return nil, fmt.Errorf("cannot find out how overlayfs must be mounted in %s: %w", opts.Root, err)
	}
	if s.meta, err = storage.NewMetaStore(filepath.Join(opts.Root, "metadata.db")); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.meta.Close())
		}
	}()
	// Without the capability containerd changes the owners in a copy of the
	// image. A mount that maps them as well would shift them twice.
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
	s.close = sync.OnceValue(s.closeOnce)
	s.jobs.Go(s.sweep)
	return s, nil
}

// takeOver loads the state of an earlier run from the disk.
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
	unfinished, err := s.store.recover(ids, s.userXattr)
	if err != nil {
		return err
	}
	for _, chain := range unfinished {
		s.unfinished[chain] = time.Now()
	}
	if err := s.Cleanup(ctx); err != nil {
		return err
	}
	records, err := s.store.scan(s.userXattr)
	if err != nil {
		return err
	}
	for _, r := range records {
		if _, ok := s.unfinished[r.Chain]; ok { // another run has made it ready
			delete(s.unfinished, r.Chain)
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
	if len(records)+len(s.unfinished) > 0 {
		s.opts.Log.Info("took over layers of an earlier run", "layers", len(records), "unfinished", len(s.unfinished))
	}
	return nil
}

// RemapIDs is the capability of a snapshotter whose mounts shift the owners of
// files into a user namespace.
const RemapIDs = "remap-ids"

// Capabilities returns the capabilities that containerd's configuration must
// list for the snapshotter on this kernel.
func Capabilities() []string {
	if ok, err := overlayutils.SupportsIDMappedMounts(); err != nil || !ok {
		return nil
	}
	return []string{RemapIDs}
}

// warnCopy logs, once, that containerd copies an image for a range of IDs that
// the mount could map.
func (s *Snapshotter) warnCopy(ctx context.Context, key string) {
	if s.remaps && strings.HasSuffix(key, "-remap") {
		s.copied.Do(func() {
			s.opts.Log.WarnContext(ctx, `containerd copies images for user namespaces, and their files will be owned by the overflow ID 65534: write capabilities = ["remap-ids"] below [proxy_plugins.penstock] in its configuration`)
		})
	}
}

// heal restores snapshots whose directory is missing from their ready layers.
// It removes the others from the metadata store, so that they are not mounted.
// The directory may have been lost in a power cut, or removed.
func (s *Snapshotter) heal(ctx context.Context, keys map[string]string) error {
	healed, missing, err := s.store.heal(keys, s.userXattr)
	if err != nil {
		return err
	}
	for _, key := range healed {
		s.opts.Log.Warn("restored the missing directory of a snapshot from the ready layers", "snapshot", key)
	}
	// From the top down, because a snapshot below another one cannot be
	// removed.
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

// Close ends all pulls and returns when all goroutines have ended. Snapshots
// stay.
func (s *Snapshotter) Close() error { return s.close() }

func (s *Snapshotter) closeOnce() error {
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

// Prepare creates an active snapshot, or fetches a layer and returns
// ErrAlreadyExists.
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
		return nil, cause // err is only its consequence
	}
	if reason, ok := fallback(err); ok && ctx.Err() == nil {
		s.fallBack(ctx, r, reason, err)
		return s.Snapshotter.Prepare(ctx, key, parent, opts...)
	}
	if err == nil {
		s.metrics.prepared(start)
		return nil, fmt.Errorf("layer %s: %w", r.target, errdefs.ErrAlreadyExists)
	}
	s.opts.Log.Warn("layer failed", "image", r.image, "chain", r.target, "err", err)
	if full(err) {
		err = exhausted{err}
	}
	return nil, err
}

func (s *Snapshotter) fallBack(ctx context.Context, r request, reason string, err error) {
	s.metrics.fellBack(reason)
	s.opts.Log.WarnContext(ctx, "left to containerd", "image", r.image, "layer", r.layer, "reason", reason, "err", err)
}

// remote returns nil once the requested layer is a committed snapshot.
func (s *Snapshotter) remote(ctx context.Context, r request, key, parent string, opts []snapshots.Opt) error {
	// A layer may be removed after it was found or fetched and before it is
	// claimed.
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
			continue // another call has committed the layer
		}
		err = s.claim(ctx, stack, key, parent, opts)
		leave()
		if !errors.Is(err, errGone) {
			return err
		}
	}
	return fmt.Errorf("layer %s vanished %d times: %w", r.target, tries, errdefs.ErrUnavailable)
}

// claim waits for the requested layer, the first of the stack, and for all
// layers above it, and commits the first. It waits for all, because containerd
// would immediately collect the committed snapshots of an image that fails
// later, whereas ready layers stay for the next attempt.
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
			break // containerd fetches that one itself
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
		// The chain exists above a snapshot with another name, which containerd
		// has unpacked in another namespace.
		return false, fmt.Errorf("%w: %s exists above %q, not above %q", errMismatch, chain, info.Parent, parent)
	}
	return true, nil
}

// errGone says that a ready layer was removed before it could be committed.
var errGone = errors.New("layer is gone")

// commit turns a ready layer into a snapshot.
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
		if err := s.store.toSnapshot(from, snap.ID); err != nil {
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

// Cleanup removes directories that belong to no snapshot. containerd calls it
// after it has collected garbage. Layers of running pulls, and ready layers,
// stay.
func (s *Snapshotter) Cleanup(ctx context.Context) error {
	var away []string
	s.paths.Lock() // a layer in work may be reading the files of a lower layer that was removed
	// A write transaction excludes those that create directories.
	err := s.meta.WithTransaction(ctx, true, func(ctx context.Context) error {
		ids, err := storage.IDMap(ctx)
		if err != nil && !errdefs.IsNotFound(err) { // not found: there never was a snapshot
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

// below returns the directories of a committed snapshot and of all snapshots
// below it, nearest first.
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
