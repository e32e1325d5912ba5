package fs_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"syscall"
	"testing"

	"pgregory.net/rapid"

	"github.com/penstock/penstock/csi/internal/fs"
	"github.com/penstock/penstock/csi/internal/memstore"
	"github.com/penstock/penstock/csi/internal/tree"
)

// names reads a directory from off on, taking at most take entries per call, until it ends.
func names(t interface {
	Helper()
	Fatal(...any)
	Context() context.Context
}, f *fs.FS, d, off uint64, take int,
) []string {
	t.Helper()
	var all []string
	for {
		n := 0
		err := f.ReadDir(t.Context(), d, off, fs.Names, func(e *fs.DirEntry) bool {
			if n == take {
				return false
			}
			n++
			off = e.Off
			all = append(all, e.Name)
			return true
		})
		if err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			return all
		}
	}
}

func TestReadDirMany(t *testing.T) {
	const entries = 5*128 + 7 // several batches and a rest
	f, s := newFS(t, fs.Options{})
	want := []string{".", ".."}
	for i := range entries {
		s.Put(fmt.Sprintf("f%05d", i), nil)
		want = append(want, fmt.Sprintf("f%05d", i))
	}
	d, err := f.OpenDir(fs.Root)
	if err != nil {
		t.Fatal(err)
	}
	for _, take := range []int{1, 7, 1000} {
		if got := names(t, f, d, 0, take); !slices.Equal(got, want) {
			t.Errorf("by %d: got %d names, want %d", take, len(got), len(want))
		}
	}
	// A seek to the middle and back to before it.
	if got := names(t, f, d, 400, 50); !slices.Equal(got, want[400:]) {
		t.Errorf("from 400: %v", got)
	}
	if got := names(t, f, d, 3, 50); !slices.Equal(got, want[3:]) {
		t.Errorf("from 3: %v", got)
	}
	if got := names(t, f, d, 1<<40, 50); len(got) != 0 {
		t.Errorf("beyond the end: %v", got)
	}
	f.ReleaseDir(d)
	if got := f.Usage(); got != (fs.Usage{Inodes: 1}) {
		t.Errorf("a plain listing must leave no inodes: %+v", got)
	}
}

// TestReadDirLikeKernel: whatever the size of the buffers, and although the kernel drops the tail of a reply and comes
// back for it, every name shows exactly once; and what a listing shows is what Lookup finds, inode by inode.
func TestReadDirLikeKernel(t *testing.T) {
	key := rapid.StringOfN(rapid.SampledFrom([]rune("ab-./")), 1, 8, -1)
	rapid.Check(t, func(t *rapid.T) {
		s := &memstore.Store{}
		for _, k := range rapid.SliceOfNDistinct(key, 0, 60, rapid.ID[string]).Draw(t, "keys") {
			s.Put(k, []byte(k))
		}
		f := fs.New(s, fs.Options{MetadataTTL: -1})
		defer f.Close()
		d, err := f.OpenDir(fs.Root)
		if err != nil {
			t.Fatal(err)
		}
		seen := map[string]fs.Attr{}
		var off uint64
		for {
			room := rapid.IntRange(1, 9).Draw(t, "room")
			kept := rapid.IntRange(1, room).Draw(t, "kept")
			var reply []fs.DirEntry
			err := f.ReadDir(t.Context(), d, off, fs.Lookups, func(e *fs.DirEntry) bool {
				if len(reply) == room {
					return false
				}
				reply = append(reply, *e)
				return true
			})
			if err != nil {
				t.Fatal(err)
			}
			if len(reply) == 0 {
				break
			}
			for i, e := range reply {
				if i >= kept {
					if e.Attr.Ino != 0 {
						f.Forget(e.Attr.Ino, 1) // what the kernel does with entries it drops
					}
					continue
				}
				if e.Off != off+1 {
					t.Fatalf("entry %q has offset %d after %d", e.Name, e.Off, off)
				}
				off = e.Off
				if _, twice := seen[e.Name]; twice {
					t.Fatalf("%q shows twice", e.Name)
				}
				seen[e.Name] = e.Attr
			}
		}
		want := map[string]fs.Attr{".": {}, "..": {}}
		for _, k := range s.Keys() {
			name, _, ok := tree.Child("", k)
			if !ok {
				continue
			}
			a, err := f.Lookup(t.Context(), fs.Root, name)
			if err != nil {
				t.Fatalf("lookup %q: %v", name, err)
			}
			f.Forget(a.Ino, 1)
			want[name] = a
		}
		if !maps.Equal(seen, want) {
			t.Fatalf("listing %v\nlookups %v", seen, want)
		}
		for _, a := range seen {
			f.Forget(a.Ino, 1)
		}
		f.ReleaseDir(d)
		if got := f.Usage(); got != (fs.Usage{Inodes: 1}) {
			t.Fatalf("after forgetting all: %+v", got)
		}
	})
}

func TestReadDirFailure(t *testing.T) {
	f, s := newFS(t, fs.Options{}, "a")
	broken := true
	s.Fail = func(context.Context, memstore.Op, string) error {
		if broken {
			return errors.New("503")
		}
		return nil
	}
	d, err := f.OpenDir(fs.Root)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	take := func(e *fs.DirEntry) bool { got = append(got, e.Name); return true }
	if err := f.ReadDir(t.Context(), d, 0, fs.Names, take); err != nil || fmt.Sprint(got) != "[. ..]" {
		t.Errorf("what is known comes first: %v, %v", got, err)
	}
	wantErrno(t, f.ReadDir(t.Context(), d, 2, fs.Names, take), syscall.EIO)
	broken = false
	if got := names(t, f, d, 2, 9); fmt.Sprint(got) != "[a]" {
		t.Errorf("after the failure: %v", got)
	}
}

func Example() {
	ctx := context.Background()
	store := &memstore.Store{}
	store.Put("data/hello", []byte("hello, world\n"))
	core := fs.New(store, fs.Options{Prefix: "data/"})
	defer core.Close()
	node, err := core.Lookup(ctx, fs.Root, "hello")
	if err != nil {
		fmt.Println(err)
		return
	}
	h, err := core.Open(ctx, node.Ino, fs.OpenRead)
	if err != nil {
		fmt.Println(err)
		return
	}
	p := make([]byte, node.Size)
	n, err := core.Read(ctx, h, p, 0)
	fmt.Printf("%s%v\n", p[:n], err)
	core.Release(h)
	core.Forget(node.Ino, 1)
	// Output:
	// hello, world
	// <nil>
}
