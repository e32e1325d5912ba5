package csi

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	iofs "io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/penstock/penstock/csi/internal/fs"
	"github.com/penstock/penstock/csi/internal/fuse"
	"github.com/penstock/penstock/csi/internal/mounts"
)

// Kinds of failure, for the codes of the answers.
var (
	errTarget = mounts.ErrOutside
	errOpen   = errors.New("bucket can't be opened")
)

// unmountGrace bounds how long the last requests of a mount may take to end after it was detached.
const unmountGrace = 5 * time.Second

// publisher holds what is mounted on this node: shared mounts in the state directory, and the targets bound to them.
//
// Two targets share a mount when all they ask for is the same, credentials included: then whoever may see the one may see
// the other, and the kernel keeps their pages once.
//
// Nothing here looks inside a mount (see package mounts). State is in memory: mounts end with the process, and what one
// leaves behind is detached at the start of the next.
type publisher struct {
	opts   Options // directories without links
	me     owner
	asked  string // the kubelet directory as kubelet calls it
	common shared

	mu      sync.Mutex // guards the maps, all keys and all counts of users; held for no I/O
	made    int        // shared mounts so far, for the names of their directories
	shared  map[string]*sharedMount
	targets map[string]*target
	closed  bool
}

// sharedMount is one mounted bucket. Whoever makes it mounts; others wait for ready. It is in the map while users > 0,
// under the identity that its credentials have now: who asks for the volume with others gets another mount.
type sharedMount struct {
	key   string // of the map, "" when it is in no map any more; guarded by publisher.mu
	dir   string
	users int           // targets bound to it, and publishes under way; guarded by publisher.mu
	ready chan struct{} // closed when mounted, or failed with err
	gone  chan struct{} // closed when unmounted and its directory is free for the next
	creds *rotating     // of the volume's secret; nil without one
	mount *Mounted
	err   error
}

// target is a published volume.
type target struct {
	volumeID string
	asked    string // digest of what was asked, without credentials
	identity string // the same with them; guarded by publisher.mu
	mount    *sharedMount
}

// newPublisher returns a publisher; asked is the kubelet directory as kubelet calls it, opts have it without links.
func newPublisher(opts Options, me owner, asked string) (*publisher, error) {
	engine, err := newEngine(opts.Memory, opts.S3.Outage, opts.Log)
	if err != nil {
		return nil, err
	}
	return &publisher{
		opts: opts, me: me, asked: asked,
		common: shared{engine: engine, limits: fs.NewLimits(engine.Budget().Limit())},
		shared: map[string]*sharedMount{}, targets: map[string]*target{},
	}, nil
}

// real returns a target as the mount table shows it: links in the kubelet directory's own path are followed, below it
// there may be none. The driver's own state is no target.
func (p *publisher) real(path string) (string, error) {
	if rest, below := strings.CutPrefix(path, p.asked+"/"); below {
		path = p.opts.KubeletDir + "/" + rest
	}
	state := p.opts.StateDir
	if path == state || strings.HasPrefix(path, state+"/") || strings.HasPrefix(state, path+"/") {
		return "", fmt.Errorf("target %q: %w: the driver keeps its own mounts in %q", path, errTarget, state)
	}
	return path, nil
}

// digest names a volume by all that makes it what it is.
func (p *publisher) digest(volumeID string, o BucketOptions, credentials bool) string {
	o.Log, o.Store = nil, nil
	if !credentials {
		o.S3.AccessKeyID, o.S3.SecretAccessKey, o.S3.SessionToken = "", "", ""
	}
	b, err := json.Marshal(struct {
		ID      string
		Options BucketOptions
	}{volumeID, o})
	if err != nil {
		panic("csi: options that can't be marshalled: " + err.Error()) // plain strings and numbers
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:16])
}

// publish shows vol at path. Calls for one path do not overlap; the node service sees to that.
func (p *publisher) publish(ctx context.Context, volumeID, path string, vol volume) error {
	path, err := p.real(path)
	if err != nil {
		return err
	}
	asked, identity := p.digest(volumeID, vol.bucket, false), p.digest(volumeID, vol.bucket, true)
	t, err := p.already(path, asked)
	if err != nil {
		return err
	}
	if t != nil {
		return p.rotate(ctx, t, identity, vol)
	}
	m, err := p.acquire(ctx, identity, vol)
	if err != nil {
		return err
	}
	if err := p.bind(path, m); err != nil {
		return errors.Join(err, p.release(m))
	}
	p.mu.Lock()
	p.targets[path] = &target{volumeID: volumeID, asked: asked, identity: identity, mount: m}
	p.mu.Unlock()
	return nil
}

// already returns the target at path if it shows what is asked for; nil if nothing of ours is there. A target of ours whose
// server is gone is taken down first, so that the publish mends it.
func (p *publisher) already(path, asked string) (*target, error) {
	p.mu.Lock()
	t := p.targets[path]
	p.mu.Unlock()
	if t == nil {
		return nil, nil
	}
	table, err := mounts.Read()
	if err != nil {
		return nil, err
	}
	m, mounted := table.At(path)
	select {
	case <-t.mount.mount.Done():
		mounted = false
	default:
	}
	if !mounted || m.FSType != fuse.FSType {
		return nil, p.unpublish(path)
	}
	if t.asked != asked {
		return nil, fmt.Errorf("target %q: %w by volume %q with other attributes or options: unpublish it first", path, errInUse, t.volumeID)
	}
	return t, nil
}

// rotate gives the mount of a target the credentials of a later publish, if they are others and if they work. The mount
// and the files that are open in it go on. Other targets that share the mount agreed in the old credentials, and so share
// the new ones.
func (p *publisher) rotate(ctx context.Context, t *target, identity string, vol volume) error {
	p.mu.Lock()
	same := t.identity == identity
	p.mu.Unlock()
	if same {
		return nil
	}
	fresh := newRotating(vol.bucket.S3)
	if fresh == nil || t.mount.creds == nil {
		return fmt.Errorf("target: %w by volume %q with credentials of another kind: unpublish it first", errInUse, t.volumeID)
	}
	vol.bucket.AllowEmpty = true // what is there now is no question of credentials
	b, err := openBucket(ctx, vol.bucket, p.common, fresh)
	if err != nil {
		return &openError{err, true}
	}
	p.mu.Lock()
	t.mount.creds.set(vol.bucket.S3) // with the key, or a mount with two targets could go by one's and read with the other's
	t.identity = identity
	p.rekeyLocked(t.mount, identity)
	p.mu.Unlock()
	p.opts.Log.Info("volume has new credentials", "volume", t.volumeID)
	return b.Close()
}

// rekeyLocked moves a shared mount to the identity of its new credentials. Whoever comes with the old ones, which may have
// been withdrawn, does not find it any more; whoever comes with the new ones does, unless another mount has them already.
func (p *publisher) rekeyLocked(m *sharedMount, identity string) {
	p.forget(m)
	if p.shared[identity] == nil {
		m.key = identity
		p.shared[identity] = m
	}
}

// forget takes a shared mount out of the map. The caller holds the lock.
func (p *publisher) forget(m *sharedMount) {
	if m.key != "" {
		delete(p.shared, m.key)
		m.key = ""
	}
}

// bind shows a shared mount at a target.
func (p *publisher) bind(path string, m *sharedMount) error {
	var kept *keptError
	err := mounts.DetachAll(path, p.me.detacher(atPublish, p.opts.Log))
	if errors.As(err, &kept) {
		return fmt.Errorf("target %q: %w: %w", path, errInUse, err)
	}
	if err != nil {
		return err
	}
	t, err := mounts.OpenTarget(p.opts.KubeletDir, path)
	if err != nil {
		return err
	}
	defer t.Close()
	if err := t.Bind(m.mount.Dir()); err != nil {
		return errors.Join(err, t.Discard())
	}
	return nil
}

// acquire returns the mount of a volume with one more user, mounting it if nobody has.
func (p *publisher) acquire(ctx context.Context, key string, vol volume) (*sharedMount, error) {
	for {
		p.mu.Lock()
		if p.closed {
			p.mu.Unlock()
			return nil, errors.New("driver is stopping")
		}
		m := p.shared[key]
		if m == nil {
			p.made++
			m = &sharedMount{
				key: key, dir: filepath.Join(p.opts.StateDir, fmt.Sprintf("%s-%d", p.me.instance, p.made)), creds: newRotating(vol.bucket.S3), users: 1,
				ready: make(chan struct{}), gone: make(chan struct{}),
			}
			p.shared[key] = m
			p.mu.Unlock()
			return m, p.fill(ctx, m, vol)
		}
		leaving := m.users == 0
		if !leaving {
			m.users++
		}
		p.mu.Unlock()
		retry, err := p.join(ctx, m, leaving)
		if err != nil {
			return nil, err
		}
		if !retry {
			return m, nil
		}
	}
}

// fill mounts a shared mount that was just put into the map. One that fails leaves the map at once: who waits for it tries
// on its own.
func (p *publisher) fill(ctx context.Context, m *sharedMount, vol volume) error {
	m.mount, m.err = p.mount(ctx, m, vol)
	if m.err != nil {
		p.mu.Lock()
		p.forget(m)
		p.mu.Unlock()
	}
	close(m.ready)
	if m.err != nil {
		return errors.Join(m.err, p.release(m))
	}
	return nil
}

// join waits for a mount that another call is making, or unmounting. retry says to look again.
func (p *publisher) join(ctx context.Context, m *sharedMount, leaving bool) (retry bool, err error) {
	if leaving {
		select {
		case <-m.gone:
			return true, nil
		case <-ctx.Done():
			return false, ctx.Err()
		}
	}
	select {
	case <-m.ready:
	case <-ctx.Done():
		return false, errors.Join(ctx.Err(), p.release(m))
	}
	if m.err != nil {
		// The other call may have failed for its own reasons, such as its deadline. Try on our own.
		return true, p.release(m)
	}
	select {
	case <-m.mount.Done():
		// Unmounted by somebody else. It goes when its targets do; until then the volume can't be had.
		return false, errors.Join(fmt.Errorf("mount %q was taken away: unpublish the volume's other targets first", m.dir), p.release(m))
	default:
		return false, nil
	}
}

// mount opens the bucket and mounts it in the state directory.
func (p *publisher) mount(ctx context.Context, at *sharedMount, vol volume) (*Mounted, error) {
	b, err := openBucket(ctx, vol.bucket, p.common, at.creds)
	if err != nil {
		return nil, &openError{err, at.creds != nil}
	}
	if err := os.MkdirAll(at.dir, 0o700); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	m, err := b.mount(at.dir, fuse.Options{Source: p.me.source(b.name), AllowOther: true, Log: p.opts.Log})
	if err != nil {
		return nil, errors.Join(err, b.Close(), os.Remove(at.dir))
	}
	return m, nil
}

// openError marks a failure of the bucket, as against one of this node.
type openError struct {
	err    error
	secret bool // the volume brought its own keys
}

// Error says where refused keys came from: the layers below know of the environment only.
func (e *openError) Error() string {
	if e.secret && errors.Is(e.err, iofs.ErrPermission) {
		return e.err.Error() + "; the keys are key_id, access_key and session_token of the volume's secret (nodePublishSecretRef)"
	}
	return e.err.Error()
}

// Unwrap returns what it is and why.
func (e *openError) Unwrap() []error { return []error{errOpen, e.err} }

// release takes back one user; the last one unmounts. The mount stays in the map until its directory is free.
func (p *publisher) release(m *sharedMount) error {
	p.mu.Lock()
	m.users--
	last := m.users == 0
	p.mu.Unlock()
	if !last {
		return nil
	}
	var err error
	if m.err == nil {
		ctx, cancel := context.WithTimeout(context.Background(), unmountGrace)
		defer cancel()
		err = errors.Join(m.mount.Unmount(ctx), os.Remove(m.dir))
		p.mu.Lock()
		p.forget(m)
		p.mu.Unlock()
	}
	close(m.gone)
	return err
}

// unpublish takes a volume off a target: every mount of this driver's, and the directory when it is empty then.
func (p *publisher) unpublish(path string) error {
	path, err := p.real(path)
	if err != nil {
		return err
	}
	if err := mounts.Remove(p.opts.KubeletDir, path, p.me.detacher(atUnpublish, p.opts.Log)); err != nil {
		var kept *keptError
		if errors.As(err, &kept) {
			return fmt.Errorf("target %q: %w", path, err)
		}
		return err // it names the target
	}
	p.mu.Lock()
	t := p.targets[path]
	delete(p.targets, path)
	p.mu.Unlock()
	if t == nil {
		return nil
	}
	return p.release(t.mount)
}

// trouble is why a published volume can't be read.
type trouble struct{ reason, message string }

// condition returns what is wrong with a volume at a target, nil when nothing is. An error matches errNotPublished when the
// volume is not mounted there, whatever was published earlier.
func (p *publisher) condition(volumeID, path string) (*trouble, error) {
	path, err := p.real(path)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	t := p.targets[path]
	p.mu.Unlock()
	if t == nil || t.volumeID != volumeID {
		return nil, fmt.Errorf("target %q: %w", path, errNotPublished)
	}
	table, err := mounts.Read()
	if err != nil {
		return nil, err
	}
	top, mounted := table.At(path)
	if !mounted {
		return nil, fmt.Errorf("target %q: %w: somebody has unmounted it; the next publish mounts it again", path, errNotPublished)
	}
	select {
	case <-t.mount.mount.Done():
		return &trouble{"ConnectionEnded", "the connection of the mount has ended and reads fail; the next publish mounts it again, for containers that start after it"}, nil
	default:
	}
	if top.Device != t.mount.mount.server.Device() {
		return &trouble{"Covered", fmt.Sprintf("%s %q is mounted over the volume", top.FSType, top.Source)}, nil
	}
	return nil, nil
}

// targetsOf returns where a volume is published.
func (p *publisher) targetsOf(volumeID string) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var paths []string
	for path, t := range p.targets {
		if t.volumeID == volumeID {
			paths = append(paths, path)
		}
	}
	return paths
}

// close unpublishes everything and ends the engine. No other call may be under way.
func (p *publisher) close() error {
	p.mu.Lock()
	p.closed = true
	var paths []string
	for path := range p.targets {
		paths = append(paths, path)
	}
	p.mu.Unlock()
	var errs []error
	for _, path := range paths {
		errs = append(errs, p.unpublish(path))
	}
	return errors.Join(append(errs, p.common.engine.Close())...)
}
