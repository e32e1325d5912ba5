package s3store

import (
	"context"
	"errors"
	iofs "io/fs"
	"iter"

	"github.com/penstock/penstock/csi/internal/fs"
	"github.com/penstock/penstock/internal/ranges"
	"github.com/penstock/penstock/internal/s3"
)

// Store is one bucket.
type Store struct {
	client *s3.Client
	engine *ranges.Engine
	bucket string
}

var _ fs.Store = (*Store)(nil)

// New returns the store of a bucket. It makes no request.
func New(client *s3.Client, engine *ranges.Engine, bucket string) *Store {
	return &Store{client: client, engine: engine, bucket: bucket}
}

// Stat implements [fs.Store].
func (s *Store) Stat(ctx context.Context, key string) (fs.Object, error) {
	info, err := s.client.Head(ctx, s.bucket, key)
	if err != nil {
		return fs.Object{}, translate(ctx, err)
	}
	return fs.Object{Key: key, Size: info.Size, ETag: info.ETag, ModTime: info.LastModified}, nil
}

// List implements [fs.Store].
func (s *Store) List(ctx context.Context, prefix string, limit int) iter.Seq2[fs.Entry, error] {
	o := s3.ListOptions{Prefix: prefix, Delimiter: "/"}
	if limit > 0 {
		o.MaxKeys = min(limit, 1000) // the largest page there is
	}
	return func(yield func(fs.Entry, error) bool) {
		for e, err := range s.client.List(ctx, s.bucket, o) {
			if err != nil {
				yield(fs.Entry{}, translate(ctx, err))
				return
			}
			if !yield(entry(e), nil) {
				return
			}
		}
	}
}

func entry(e s3.Entry) fs.Entry {
	if e.Prefix != "" {
		return fs.Entry{Object: fs.Object{Key: e.Prefix}, IsPrefix: true}
	}
	return fs.Entry{Object: fs.Object{Key: e.Key, Size: e.Size, ETag: e.ETag, ModTime: e.LastModified}}
}

// Open implements [fs.Store]. It makes no request.
func (s *Store) Open(_ context.Context, o fs.Object) (fs.Reader, error) {
	spec := s.client.Spec(s.bucket, o.Key, s3.ObjectInfo{Key: o.Key, Size: o.Size, ETag: o.ETag, LastModified: o.ModTime})
	obj := s.engine.Object(s.client.Source(s.bucket, o.Key, s3.SourceOptions{}), spec)
	return &reader{obj.Reader(ranges.ReaderOptions{})}, nil
}

// reader is an open file.
type reader struct{ r *ranges.Reader }

// ReadAt implements [fs.Reader].
func (r *reader) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	n, err := r.r.ReadAt(ctx, p, off)
	return n, translate(ctx, err)
}

// Close implements [fs.Reader].
func (r *reader) Close() error {
	return r.r.Close()
}

// translated is an error of the layers below that also matches a sentinel of the core.
type translated struct {
	error
	kind error
}

// Unwrap returns both.
func (t *translated) Unwrap() []error { return []error{t.kind, t.error} }

// translate makes err match what the core looks for.
func translate(ctx context.Context, err error) error {
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil && !errors.Is(err, ctx.Err()):
		return &translated{err, ctx.Err()} // whatever broke, the caller was going away
	case errors.Is(err, ranges.ErrChanged):
		return &translated{err, fs.ErrChanged}
	case errors.Is(err, ranges.ErrNotFound):
		return &translated{err, iofs.ErrNotExist}
	case errors.Is(err, ranges.ErrDenied):
		return &translated{err, iofs.ErrPermission}
	default:
		return err
	}
}
