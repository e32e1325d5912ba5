package memstore

import (
	"context"
	"fmt"
	"io"
	iofs "io/fs"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/penstock/penstock/csi/internal/fs"
)

// Op names a call of the store for Fail and Count.
type Op string

// The operations.
const (
	Stat Op = "stat"
	List Op = "list"
	Open Op = "open"
	Read Op = "read"
)

// Store is a bucket in memory.
type Store struct {
	// Fail, if set, is called before every operation; its error is the operation's. It may block.
	Fail func(ctx context.Context, op Op, key string) error

	mu      sync.Mutex
	objects map[string]object
	version int
	counts  map[Op]int
}

type object struct {
	fs.Object
	data []byte
}

var _ fs.Store = (*Store)(nil)

// Put stores a new version of a key. data must not change afterwards.
func (s *Store) Put(key string, data []byte) fs.Object {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.objects == nil {
		s.objects = map[string]object{}
	}
	s.version++
	// Times differ by version and not by clock, so that outputs can be compared.
	o := fs.Object{
		Key: key, Size: int64(len(data)), ETag: fmt.Sprintf("%q", fmt.Sprint("v", s.version)),
		ModTime: time.Unix(1_700_000_000+int64(s.version), 0),
	}
	s.objects[key] = object{o, data}
	return o
}

// Delete removes a key.
func (s *Store) Delete(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.objects, key)
}

// Keys returns all keys in byte order.
func (s *Store) Keys() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.objects))
}

// Count returns how many calls of op there were.
func (s *Store) Count(op Op) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.counts[op]
}

func (s *Store) enter(ctx context.Context, op Op, key string) error {
	s.mu.Lock()
	if s.counts == nil {
		s.counts = map[Op]int{}
	}
	s.counts[op]++
	s.mu.Unlock()
	if s.Fail != nil {
		if err := s.Fail(ctx, op, key); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// Stat implements [fs.Store].
func (s *Store) Stat(ctx context.Context, key string) (fs.Object, error) {
	if err := s.enter(ctx, Stat, key); err != nil {
		return fs.Object{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	o, ok := s.objects[key]
	if !ok {
		return fs.Object{}, fmt.Errorf("stat %q: %w", key, iofs.ErrNotExist)
	}
	return o.Object, nil
}

// List implements [fs.Store]. The listing is a snapshot, one call for Fail.
func (s *Store) List(ctx context.Context, prefix string, limit int) iter.Seq2[fs.Entry, error] {
	return func(yield func(fs.Entry, error) bool) {
		if err := s.enter(ctx, List, prefix); err != nil {
			yield(fs.Entry{}, err)
			return
		}
		for i, e := range s.snapshot(prefix) {
			if limit > 0 && i >= limit {
				return
			}
			if err := ctx.Err(); err != nil {
				yield(fs.Entry{}, err)
				return
			}
			if !yield(e, nil) {
				return
			}
		}
	}
}

func (s *Store) snapshot(prefix string) []fs.Entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	found := map[string]fs.Entry{}
	for key, o := range s.objects {
		rest, below := strings.CutPrefix(key, prefix)
		if !below {
			continue
		}
		e := fs.Entry{Object: o.Object}
		if i := strings.IndexByte(rest, '/'); i >= 0 {
			e = fs.Entry{Object: fs.Object{Key: prefix + rest[:i+1]}, IsPrefix: true}
		}
		found[e.Key] = e
	}
	list := slices.Collect(maps.Values(found))
	slices.SortFunc(list, func(a, b fs.Entry) int { return strings.Compare(a.Key, b.Key) })
	return list
}

// Open implements [fs.Store].
func (s *Store) Open(ctx context.Context, o fs.Object) (fs.Reader, error) {
	if err := s.enter(ctx, Open, o.Key); err != nil {
		return nil, err
	}
	return &reader{s, o}, nil
}

type reader struct {
	store *Store
	obj   fs.Object
}

// ReadAt implements [fs.Reader].
func (r *reader) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if err := r.store.enter(ctx, Read, r.obj.Key); err != nil {
		return 0, err
	}
	r.store.mu.Lock()
	o, ok := r.store.objects[r.obj.Key]
	r.store.mu.Unlock()
	switch {
	case !ok:
		return 0, fmt.Errorf("read %q: %w", r.obj.Key, iofs.ErrNotExist)
	case o.ETag != r.obj.ETag:
		return 0, fmt.Errorf("read %q: %w", r.obj.Key, fs.ErrChanged)
	case off >= int64(len(o.data)):
		return 0, io.EOF
	}
	n := copy(p, o.data[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// Close implements [fs.Reader].
func (r *reader) Close() error { return nil }
