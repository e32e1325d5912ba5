package flow

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/penstock/penstock/internal/budget"
	"github.com/penstock/penstock/internal/ranges"
	"github.com/penstock/penstock/soci/internal/indexdir"
	"github.com/penstock/penstock/soci/internal/registry"
)

// ErrDigest says that a layer does not match its digest, size or DiffID.
var ErrDigest = errors.New("digest mismatch")

// digestError is an error that matches ErrDigest without repeating its text.
type digestError struct{ error }

func (e digestError) Unwrap() []error { return []error{e.error, ErrDigest} }

// Options configure a Fetcher.
type Options struct {
	Client  *registry.Client
	Engine  *ranges.Engine
	Memory  *budget.Budget
	Limits  Limits
	Indexes *indexdir.Dir // or nil
	Log     *slog.Logger
}

// Request describes the layer that a caller wants.
type Request struct {
	Ref    registry.Reference
	Layer  registry.Layer
	Window int64 // bytes fetched ahead
	Blobs  Blobs // receives a copy of the blob; nil if none is wanted
}

// Blobs stores copies of blobs.
type Blobs interface {
	// Create starts a blob. It returns nil if the blob exists.
	Create(ctx context.Context, d ocispec.Descriptor) (BlobWriter, error)
	// Resume continues a blob behind its first n bytes, which it writes to
	// check. It returns nil if the blob exists, and fails if it has fewer
	// bytes.
	Resume(ctx context.Context, d ocispec.Descriptor, n int64, check io.Writer) (BlobWriter, error)
}

// BlobWriter takes one blob in order. Commit is called once digest and size are
// verified. Close is always called last, and discards an uncommitted blob.
type BlobWriter interface {
	io.WriteCloser
	Commit() error
}

// Result describes a fetched layer.
type Result struct {
	Compression string // gzip, zstd or none
	ResumedAt   int64  // offset in the blob at which fetching resumed, or 0
	Received    int64  // compressed bytes, including bytes of an earlier attempt
	Tar         int64  // bytes of tar
	Timing      Timing
	Warnings    []string
}

// Timing holds the durations of the phases of a pipeline, which overlap.
type Timing struct {
	Network time.Duration // inflate waited for bytes
	Inflate time.Duration
	Hash    time.Duration // both digests
	Wall    time.Duration
	Blocked time.Duration // inflate waited for a free block
	// LastHash is the share of the blocks that DiffID released last, 0 to 1.
	LastHash float64
}

// Stats counts the work of a Fetcher.
type Stats struct {
	Transfers int64 // in progress
	Targets   int64 // waiting for these transfers
	Layers    int64 // fetched and verified
	Failed    int64
	Wrong     int64 // attempts whose bytes did not match the digest
	Tar       int64 // bytes inflated
}

// Fetcher fetches layers. It is made by New and must be closed.
type Fetcher struct {
	opts     Options
	windows  *windows
	priority *priority // nil with enough cores for all layers

	life context.Context //nolint:containedctx // of transfers, which outlive the request that started them
	end  context.CancelFunc
	wg   sync.WaitGroup // transfers

	// mu guards the maps below. It is taken before the mutex of a transfer. No
	// function of a target is called while it is held.
	mu       sync.Mutex
	running  map[*transfer]struct{}
	joinable map[transferKey]*transfer // the latest of running by key, without resumed ones

	layers, failed, wrong, tar atomic.Int64 // see Stats
}

// transferKey identifies transfers that requests can share. The repository is
// part of it, because another repository may be slow, deny the layer, or send
// wrong bytes.
type transferKey struct {
	digest, diffID   digest.Digest
	host, repository string
}

// New returns a Fetcher.
func New(o Options) *Fetcher {
	f := &Fetcher{
		opts: o, windows: newWindows(o.Memory, o.Limits.Window),
		running: make(map[*transfer]struct{}), joinable: make(map[transferKey]*transfer),
	}
	if runtime.GOMAXPROCS(0) < fewCores {
		f.priority = new(priority)
	}
	f.life, f.end = context.WithCancel(context.Background())
	return f
}

// Close ends all transfers and waits for them.
func (f *Fetcher) Close() {
	f.end()
	f.wg.Wait()
}

// Stats returns the counters. They are read one after another, so they need not
// describe the same moment.
func (f *Fetcher) Stats() Stats {
	s := Stats{Layers: f.layers.Load(), Failed: f.failed.Load(), Wrong: f.wrong.Load(), Tar: f.tar.Load()}
	f.mu.Lock()
	defer f.mu.Unlock()
	s.Transfers = int64(len(f.running))
	for t := range f.running {
		t.mu.Lock()
		s.Targets += int64(len(t.targets))
		t.mu.Unlock()
	}
	return s
}

// Fetch fetches a layer into all targets. It shares a transfer with other
// requests for the same layer of the same repository. It returns when all
// targets are complete, with the first error of a target, or when ctx ends.
// Afterwards the directories belong to the caller; after an error the targets
// hold no Layer.
func (f *Fetcher) Fetch(ctx context.Context, r Request, targets ...*Target) (*Result, error) {
	t := f.join(r, targets)
	err := t.wait(ctx, targets)
	if err == nil {
		return t.result(), nil
	}
	for _, s := range targets {
		s.release()
	}
	return nil, err
}

// join adds the targets to a running transfer, or starts one.
func (f *Fetcher) join(r Request, targets []*Target) *transfer {
	t, catchUp := f.joinOrStart(r, targets)
	if catchUp != nil {
		catchUp()
	}
	return t
}

// joinOrStart is join without the notifications. If catchUp is not nil, the
// caller must call it, see transfer.add.
func (f *Fetcher) joinOrStart(r Request, targets []*Target) (t *transfer, catchUp func()) {
	key := transferKey{r.Layer.Digest, r.Layer.DiffID, r.Ref.Host, r.Ref.Repository}
	// A resumed layer does not share its transfer, because other targets need
	// the bytes before the checkpoint.
	alone := slices.ContainsFunc(targets, func(s *Target) bool { return s.Checkpoint.Resume() != nil })
	f.mu.Lock()
	defer f.mu.Unlock()
	if other := f.joinable[key]; other != nil && r.Blobs == nil && !alone {
		if catchUp := other.add(targets); catchUp != nil {
			return other, catchUp
		}
	}
	t = &transfer{f: f, req: r, ended: make(chan struct{}), targets: targets, sealed: alone}
	t.ctx, t.cancel = context.WithCancelCause(f.life)
	f.running[t] = struct{}{}
	if !alone {
		f.joinable[key] = t
	}
	f.wg.Go(func() {
		t.run()
		t.count()
		f.mu.Lock()
		delete(f.running, t)
		if f.joinable[key] == t {
			delete(f.joinable, key)
		}
		f.mu.Unlock()
		t.cancel(nil)
		close(t.ended)
	})
	return t, nil
}
