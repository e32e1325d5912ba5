package csi

import (
	"context"
	"iter"
	"time"

	"github.com/penstock/penstock/csi/internal/fs"
)

// ErrChanged is what reads of a file fail with when its object was replaced after it was opened. A [Store] returns it
// (or an error that wraps it) for a version that is no longer there.
var ErrChanged = fs.ErrChanged

// Object is one version of one key.
type Object struct {
	Key     string
	Size    int64
	ETag    string // validator of the version; "" if the store has none (then size and time stand in for it)
	ModTime time.Time
}

// Entry is one result of a listing: an object, or a common prefix (only Key is set, and it ends in "/").
type Entry struct {
	Object
	IsPrefix bool
}

// Store is where a bucket comes from. The default is S3; a program can bring another, for example one that reads through
// the peers of a job. It must be safe for parallel calls, retry by itself, and honour ctx. Errors are recognised by
// errors.Is: io/fs.ErrNotExist, io/fs.ErrPermission, [ErrChanged].
type Store interface {
	// Stat returns the current version of a key.
	Stat(ctx context.Context, key string) (Object, error)
	// List yields, in byte order of their keys if it can, the objects whose keys start with prefix and have no further "/", and
	// the common prefixes of the others. limit > 0 says that the caller stops after that many.
	List(ctx context.Context, prefix string, limit int) iter.Seq2[Entry, error]
	// Open returns a reader of exactly the version o.
	Open(ctx context.Context, o Object) (Reader, error)
}

// Reader reads one version of an object. ReadAt follows io.ReaderAt and may be called in parallel.
type Reader interface {
	ReadAt(ctx context.Context, p []byte, off int64) (int, error)
	Close() error
}

// adapter is a caller's store as the core wants it: the types are equal, but public types must not be internal ones.
type adapter struct{ s Store }

func (a adapter) Stat(ctx context.Context, key string) (fs.Object, error) {
	o, err := a.s.Stat(ctx, key)
	return fs.Object(o), err
}

func (a adapter) List(ctx context.Context, prefix string, limit int) iter.Seq2[fs.Entry, error] {
	return func(yield func(fs.Entry, error) bool) {
		for e, err := range a.s.List(ctx, prefix, limit) {
			if !yield(fs.Entry{Object: fs.Object(e.Object), IsPrefix: e.IsPrefix}, err) {
				return
			}
		}
	}
}

func (a adapter) Open(ctx context.Context, o fs.Object) (fs.Reader, error) {
	return a.s.Open(ctx, Object(o))
}
