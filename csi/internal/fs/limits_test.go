package fs

import (
	"context"
	"errors"
	"fmt"
	iofs "io/fs"
	"iter"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/penstock/penstock/csi/internal/tree"
)

// small are limits of 64 open files, 1 open directory and 256 inodes for all file systems.
func small() *Limits { return NewLimits(2 * 64 * fileCost) }

func TestLimitsOfOpenFiles(t *testing.T) {
	l := small()
	greedy, other := l.share(), l.share()
	take := func(s *share) (n int) {
		for s.open(fileCost) == nil {
			n++
		}
		return n
	}
	if n := take(greedy); n != 32 {
		t.Errorf("one file system opened %d, want half of 64", n)
	}
	if n := take(other); n != 16 {
		t.Errorf("the next one opened %d, want half of what was left", n)
	}
	third := l.share()
	if n := take(third); n != 8 {
		t.Errorf("the third opened %d, want half of what was left", n)
	}
	err := greedy.open(fileCost)
	if !errors.Is(err, ErrTooManyOpen) || Errno(&Error{"open", "x", err}) != syscall.ENFILE || !strings.Contains(err.Error(), "more memory") {
		t.Errorf("beyond the limit: %v", err)
	}
	greedy.release(fileCost)
	if err := greedy.open(fileCost); err == nil {
		t.Error("what others hold counts as well: one place given back is not enough")
	}
	third.end()
	third.release(fileCost) // after the end it gives nothing back twice
	greedy.end()
	other.end()
	if l.used != 0 || len(l.all) != 0 {
		t.Errorf("%d bytes used at the end, %d file systems", l.used, len(l.all))
	}
}

// TestFilesBeyondTheLimit: opens beyond the limit fail, and give back what they took; others go on.
func TestFilesBeyondTheLimit(t *testing.T) {
	l := small()
	s := newStoreOf(100)
	f, other := New(s, Options{Limits: l}), New(s, Options{Limits: l})
	defer other.Close()
	var open []uint64
	for i := range 100 {
		h, _, err := f.OpenPath(t.Context(), fmt.Sprintf("f%03d", i))
		if err != nil {
			if Errno(err) != syscall.ENFILE {
				t.Fatal(err)
			}
			break
		}
		open = append(open, h)
	}
	if len(open) != 32 {
		t.Errorf("%d files open, want 32", len(open))
	}
	if _, _, err := other.OpenPath(t.Context(), "f001"); err != nil {
		t.Errorf("another file system: %v", err)
	}
	if _, err := f.Read(t.Context(), open[0], make([]byte, 1), 0); err != nil {
		t.Errorf("a file that is open: %v", err)
	}
	f.Release(open[0])
	if _, _, err := f.OpenPath(t.Context(), "missing"); Errno(err) != syscall.ENOENT {
		t.Errorf("a missing file: %v", err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	f.Release(open[1])
	if l.used != fileCost {
		t.Errorf("%d bytes used, want those of the other's one file", l.used)
	}
}

func TestInodesOverTheLimitAreNamed(t *testing.T) {
	l := small()
	s := newStoreOf(600)
	quiet, f := New(s, Options{Limits: l}), New(s, Options{Limits: l})
	defer quiet.Close()
	defer f.Close()
	look := func(f *FS, from, to int) {
		t.Helper()
		for i := from; i < to; i++ {
			if _, err := f.Lookup(t.Context(), Root, fmt.Sprintf("f%03d", i)); err != nil {
				t.Fatal(err)
			}
		}
	}
	crowded := func(f *FS) bool {
		select {
		case <-f.Crowded():
			return true
		default:
			return false
		}
	}
	look(quiet, 0, 10)
	look(f, 0, 246)
	if crowded(f) || f.Surplus() != 0 {
		t.Errorf("at the limit: surplus %d", f.Surplus())
	}
	look(quiet, 10, 14)
	if !crowded(f) || crowded(quiet) {
		t.Error("the file system with the most inodes is the one to give up some")
	}
	if f.Surplus() != 4+32 {
		t.Errorf("surplus %d, want what is too much and an eighth of the limit", f.Surplus())
	}
	look(f, 0, 1) // now it is the newest
	names := f.Oldest(f.Surplus())
	if len(names) != 36 || names[0].Name != "f001" || names[0].Parent != Root || names[0].Dir {
		t.Errorf("%d names, the first %+v", len(names), names[0])
	}
	for _, n := range names {
		f.Forget(n.Ino, 1)
	}
	if f.Surplus() != 0 {
		t.Errorf("surplus %d after they were forgotten", f.Surplus())
	}
	if again := f.Oldest(1); again[0].Name != "f037" {
		t.Errorf("then %+v is the oldest", again[0])
	}
	look(f, 100, 600)
	if !f.share.full() {
		t.Error("twice the limit is full")
	}
	// A listing then tells names without counting look-ups.
	before := f.Usage().Inodes
	h, err := f.OpenDir(Root)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	if err := f.ReadDir(t.Context(), h, 0, Lookups, func(e *DirEntry) bool { n++; return n < 100 && e.Attr.Ino == 0 }); err != nil {
		t.Fatal(err)
	}
	if f.Usage().Inodes != before || n != 100 {
		t.Errorf("%d entries, %d inodes more", n, f.Usage().Inodes-before)
	}
}

// TestReplies: reads wait when their file system has its share of replies under way; another one does not.
func TestReplies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := NewLimits(200)
		greedy, other := l.share(), l.share()
		granted := make(chan error, 100)
		ctx, cancel := context.WithCancel(t.Context())
		for range 12 {
			go func() { granted <- greedy.reserve(ctx, 10, func() {}) }()
			synctest.Wait()
		}
		if len(granted) != 5 || greedy.flying != 50 {
			t.Errorf("%d replies, %d bytes, want half of 100", len(granted), greedy.flying)
		}
		if err := other.reserve(ctx, 10, func() {}); err != nil {
			t.Error(err)
		}
		greedy.unreserve(10)
		synctest.Wait()
		if len(granted) != 6 {
			t.Errorf("%d replies, want one for that given back", len(granted))
		}
		if err := other.reserve(ctx, 30, func() {}); err != nil {
			t.Error(err)
		}
		greedy.unreserve(10)
		synctest.Wait()
		if len(granted) != 6 {
			t.Errorf("%d replies: what the other has counts", len(granted))
		}
		other.unreserve(30)
		other.unreserve(10)
		synctest.Wait()
		if len(granted) != 7 {
			t.Errorf("%d replies after the other's end, want one more", len(granted))
		}
		if err := l.share().reserve(ctx, 1000, func() {}); err != nil {
			t.Errorf("a reply that is larger than everything is the only one of its file system: %v", err)
		}
		cancel()
		synctest.Wait()
		failed := 0
		for range 12 {
			if err := <-granted; err != nil {
				failed++
			}
		}
		if failed != 5 || len(greedy.queue) != 0 || greedy.flying != 50 {
			t.Errorf("%d failed, %d wait, %d bytes", failed, len(greedy.queue), greedy.flying)
		}
	})
}

// listStore is a bucket of a few keys, each of one byte.
type listStore []Object

// newStoreOf returns a store of n files f000, f001, ...
func newStoreOf(n int) listStore {
	var s listStore
	for i := range n {
		s = append(s, Object{Key: fmt.Sprintf("f%03d", i), Size: 1, ETag: `"1"`})
	}
	return s
}

// Stat implements [Store].
func (s listStore) Stat(_ context.Context, key string) (Object, error) {
	for _, o := range s {
		if o.Key == key {
			return o, nil
		}
	}
	return Object{}, iofs.ErrNotExist
}

// List implements [Store].
func (s listStore) List(_ context.Context, prefix string, _ int) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		for _, o := range s {
			if strings.HasPrefix(o.Key, prefix) && !yield(Entry{Object: o}, nil) {
				return
			}
		}
	}
}

// Open implements [Store].
func (listStore) Open(context.Context, Object) (Reader, error) { return oneByte{}, nil }

type oneByte struct{}

// ReadAt implements [Reader].
func (oneByte) ReadAt(_ context.Context, p []byte, _ int64) (int, error) { return copy(p, "x"), nil }

// Close implements [Reader].
func (oneByte) Close() error { return nil }

// TestNamesOfLargeDirectoriesArePaidFor: the names seen while a large directory is listed come out of the limits; without
// room a sorted listing goes on and an unsorted one says so, and all is given back at the end.
func TestNamesOfLargeDirectoriesArePaidFor(t *testing.T) {
	const names = 40_000 // 1 MiB of hashes, of which 256 KiB are part of dirCost
	var s listStore
	for i := range names {
		s = append(s, Object{Key: fmt.Sprintf("f%06d", i), Size: 1, ETag: `"1"`})
	}
	mixed := slices.Clone(s)
	mixed[0], mixed[1] = mixed[1], mixed[0]
	for _, tc := range []struct {
		store  listStore
		places int64 // of open directories, for one file system
		fails  bool
		most   int64
	}{
		{s, 8, false, dirCost + 768<<10},
		{s, 1, false, dirCost},
		{mixed, 16, false, dirCost + 768<<10 + 8*256<<10},
		{mixed, 1, true, dirCost},
	} {
		l := NewLimits(4 * tc.places * dirCost)
		f := New(tc.store, Options{Limits: l})
		h, err := f.OpenDir(Root)
		if err != nil {
			t.Fatal(err)
		}
		n, most := 0, int64(0)
		for off := uint64(0); ; {
			before := n
			err = f.ReadDir(t.Context(), h, off, Names, func(e *DirEntry) bool { n, off = n+1, e.Off; return true })
			l.mu.Lock()
			most = max(most, l.used)
			l.mu.Unlock()
			if err != nil || n == before {
				break
			}
		}
		if tc.fails != errors.Is(err, tree.ErrOrder) || !tc.fails && (err != nil || n != names+2) || most > tc.most || most < dirCost {
			t.Errorf("%d places: %d names, %v, %d bytes at the most, want at most %d", tc.places, n, err, most, tc.most)
		}
		f.ReleaseDir(h)
		if l.used != 0 {
			t.Errorf("%d places: %d bytes are still used", tc.places, l.used)
		}
		f.Close()
	}
}
