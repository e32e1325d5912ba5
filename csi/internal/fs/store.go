package fs

import (
	"context"
	"iter"
	"time"
)

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

// Store is what the file system needs of a bucket. Implementations retry and time out by themselves: an error is
// final. They must be safe for parallel calls and honour ctx.
//
// Errors are recognised by errors.Is: io/fs.ErrNotExist, io/fs.ErrPermission, [ErrChanged], and the context errors.
type Store interface {
	// Stat returns the current version of a key.
	Stat(ctx context.Context, key string) (Object, error)
	// List yields, in byte order of their keys if it can, the objects whose keys start with prefix and have no further "/",
	// and the common prefixes of the others. limit > 0 says that the caller stops after that many.
	List(ctx context.Context, prefix string, limit int) iter.Seq2[Entry, error]
	// Open returns a reader of exactly the version o. It need not ask the server: a version that is gone may show at
	// the first read.
	Open(ctx context.Context, o Object) (Reader, error)
}

// Reader reads one version of an object. ReadAt follows io.ReaderAt (short only with an error, io.EOF at the end) and
// may be called in parallel; a version that is gone is [ErrChanged] or io/fs.ErrNotExist.
type Reader interface {
	ReadAt(ctx context.Context, p []byte, off int64) (int, error)
	Close() error
}
