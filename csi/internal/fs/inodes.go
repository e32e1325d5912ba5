package fs

import (
	"sync"
	"time"

	"github.com/penstock/penstock/csi/internal/tree"
	"github.com/penstock/penstock/internal/ranges"
)

// node is one inode: a directory, or one version of a file. All fields but the guarded ones never change.
type node struct {
	ino    uint64
	kind   tree.Kind
	parent uint64
	name   string
	obj    Object // a file's version; of a directory only Key is set: its prefix

	// Guarded by inodes.mu.
	lookups uint64    // times the kernel was told, less the times it forgot; the node leaves the table at 0
	seen    time.Time // when the store last confirmed that this is what the name shows
	older   *node     // neighbours in the ring of age; nil outside of it
	newer   *node
}

// sameVersion reports whether o is the version that the node stands for.
func (n *node) sameVersion(kind tree.Kind, o Object) bool {
	if n.kind != kind || n.obj.Key != o.Key {
		return false
	}
	if kind == tree.Dir {
		return true
	}
	return n.obj.version().Same(o.version())
}

func (o Object) version() ranges.Version {
	return ranges.Version{ETag: o.ETag, Modified: o.ModTime, Size: o.Size}
}

// child names an entry of a directory.
type child struct {
	parent uint64
	name   string
}

// inodes is the inode table. Invariants: byIno[n.ino] == n for every node that the kernel knows (lookups > 0) and for
// the root; byName holds at most one node per name, the version last confirmed; an older version stays in byIno alone
// until it is forgotten. Inode numbers are never used twice. All nodes but the root are in the ring of age, those that were
// looked up last at its end (age.older).
type inodes struct {
	count func(n int) // told how many nodes come and go; called under mu, and calls nothing here

	mu     sync.Mutex // a leaf lock but for count: nothing else is called while it is held
	byIno  map[uint64]*node
	byName map[child]*node
	next   uint64
	age    node // head of the ring
}

func newInodes(prefix string, now time.Time, count func(n int)) *inodes {
	root := &node{ino: Root, kind: tree.Dir, obj: Object{Key: prefix}, lookups: 1, seen: now}
	t := &inodes{count: count, byIno: map[uint64]*node{Root: root}, byName: map[child]*node{}, next: Root + 1}
	t.age.older, t.age.newer = &t.age, &t.age
	return t
}

// touch makes n the newest.
func (t *inodes) touch(n *node) {
	n.unlink()
	n.older, n.newer = t.age.older, &t.age
	n.older.newer, n.newer.older = n, n
}

// unlink takes n out of the ring of age.
func (n *node) unlink() {
	if n.newer != nil {
		n.older.newer, n.newer.older = n.newer, n.older
		n.older, n.newer = nil, nil
	}
}

// oldest returns the names of at most limit nodes that were looked up longest ago, and counts it as a look-up of them: a
// node that the kernel can't forget, because it is in use, is not named again before all others were.
func (t *inodes) oldest(limit int) []Name {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []Name
	for n := t.age.newer; len(out) < min(limit, len(t.byIno)-1) && n != &t.age; n = t.age.newer {
		out = append(out, Name{n.ino, n.parent, n.name, n.kind == tree.Dir})
		t.touch(n)
	}
	return out
}

// get returns the node of a number, nil if the kernel does not know it.
func (t *inodes) get(ino uint64) *node {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.byIno[ino]
}

// ref counts one more lookup of what the store just said about a name, and returns its node.
func (t *inodes) ref(at child, kind tree.Kind, o Object, now time.Time) *node {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.byName[at]
	if n == nil || !n.sameVersion(kind, o) {
		n = &node{ino: t.next, kind: kind, parent: at.parent, name: at.name, obj: o}
		t.next++
		t.byIno[n.ino], t.byName[at] = n, n
		t.count(1)
	}
	n.seen = now
	n.lookups++
	t.touch(n)
	return n
}

// refFresh counts one more lookup of a name if it was confirmed at or after since; nil if it was not.
func (t *inodes) refFresh(at child, since time.Time) *node {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.byName[at]
	if n == nil || n.seen.Before(since) {
		return nil
	}
	n.lookups++
	t.touch(n)
	return n
}

// number returns the number that a name has now, 0 if none.
func (t *inodes) number(at child) uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n := t.byName[at]; n != nil {
		return n.ino
	}
	return 0
}

// fresh reports whether n is what its name shows, confirmed at or after since. An older version never is.
func (t *inodes) fresh(n *node, since time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.byName[child{n.parent, n.name}] == n && !n.seen.Before(since)
}

// confirm notes that the store still shows n.
func (t *inodes) confirm(n *node, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n.seen = now
}

// outdate makes the next lookup of n's name ask the store.
func (t *inodes) outdate(n *node) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n.seen = time.Time{}
}

// forget takes back n lookups of a number. The root is never forgotten; more than were counted is the same as all.
func (t *inodes) forget(ino, count uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.byIno[ino]
	if n == nil || ino == Root {
		return
	}
	if n.lookups > count {
		n.lookups -= count
		return
	}
	delete(t.byIno, ino)
	n.unlink()
	t.count(-1)
	if at := (child{n.parent, n.name}); t.byName[at] == n {
		delete(t.byName, at)
	}
}

// len returns how many nodes the table holds, the root included.
func (t *inodes) len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.byIno)
}
