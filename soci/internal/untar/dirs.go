package untar

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/maphash"
	"slices"

	"github.com/penstock/penstock/soci/internal/tarfile"
)

// dirID identifies a directory of a dirTable.
type dirID uint32

// rootDir is the root of every dirTable.
const rootDir dirID = 0

// dirTable holds the directories of one layer by physical path. It is a tree in
// which each node stores its parent and its own name. A million nodes take
// about 100 MB less than a million paths would, and forgetting a directory with
// everything below it takes constant time. Its memory is charged to a ledger.
//
// Invariants: a directory follows its parent in nodes, and index holds each
// live pair of parent and name exactly once.
type dirTable struct {
	nodes []dirNode
	index []uint32 // hash table with open addressing: dirID+1 of a node, 0 for a free slot
	slots int      // number of slots of index that are in use
	names arena
	attrs map[dirID][]tarfile.Attr // only of directories that have attributes
	seed  maphash.Seed
	mem   *ledger

	lastPath string // the directory that find returned last
	lastID   dirID
	scratch  []byte // buffer of path
}

// dirNode is one directory. Its metadata is applied at the very end, because
// creating files changes times, and a mode may lock out even the owner.
type dirNode struct {
	parent       dirID
	name         nameRef
	uid, gid     uint32
	mode         uint16
	flags        uint8
	asec, msec   int64
	ansec, mnsec uint32
}

// The flags of a directory.
const (
	dirExplicit uint8 = 1 << iota // an entry describes it
	dirOpaque                     // hides the content of lower layers
	dirDead                       // was replaced; after markDead also: lies below a replaced directory
	dirNamed                      // known only because a path names it; the layer may not contain it
)

const (
	nodeBytes = 64 // memory of a dirNode and its two slots in index
	// chargeNum/chargeDen is the ratio of charged to stored bytes. It exceeds 1
	// because growing a slice briefly needs memory for both copies, and the
	// garbage collector frees the old one late.
	chargeNum, chargeDen = 3, 2
)

// nameRef is the location of a name in an arena.
type nameRef struct {
	at uint32
	n  uint16
}

// arena stores short texts without a header for each.
type arena struct{ chunks [][]byte }

const (
	arenaChunk = 64 << 10 // bytes
	maxText    = 4096     // bytes of one text: PATH_MAX of Linux
)

// errTooLong is the error of a name that exceeds PATH_MAX.
var errTooLong = badf("a name of more than %d bytes", maxText)

// add stores a text of at most maxText bytes.
func (a *arena) add(text string) nameRef {
	last := len(a.chunks) - 1
	if last < 0 || len(a.chunks[last])+len(text) > arenaChunk {
		a.chunks = append(a.chunks, make([]byte, 0, arenaChunk))
		last++
	}
	at := last*arenaChunk + len(a.chunks[last])
	a.chunks[last] = append(a.chunks[last], text...)
	return nameRef{uint32(at), uint16(len(text))} //nolint:gosec // G115: the ledger ends long before 4 GiB; see maxText
}

func (a *arena) bytes(r nameRef) []byte {
	if r.n == 0 {
		return nil
	}
	return a.chunks[r.at/arenaChunk][r.at%arenaChunk:][:r.n]
}

// size estimates the bytes of all texts.
func (a *arena) size() int {
	if len(a.chunks) == 0 {
		return 0
	}
	return (len(a.chunks)-1)*arenaChunk + len(a.chunks[len(a.chunks)-1])
}

func newDirTable(mem *ledger) *dirTable {
	t := &dirTable{seed: maphash.MakeSeed(), mem: mem, index: make([]uint32, 64), lastPath: "."}
	t.nodes = append(t.nodes, dirNode{mode: uint16(defaultDirMode)})
	return t
}

// defaultDirMode is the mode of directories that no entry describes.
const defaultDirMode = 0o755

// slot returns the slot of a name in index, or the free slot for it.
func (t *dirTable) slot(parent dirID, name string) int {
	h := maphash.String(t.seed, name) + uint64(parent)*0x9e3779b97f4a7c15
	h ^= h >> 32
	for i := int(h) & (len(t.index) - 1); ; i = (i + 1) & (len(t.index) - 1) { //nolint:gosec // masked
		id := t.index[i]
		if id == 0 {
			return i
		}
		n := &t.nodes[id-1]
		if n.parent == parent && int(n.name.n) == len(name) && string(t.names.bytes(n.name)) == name {
			return i
		}
	}
}

// child returns a directory by name.
func (t *dirTable) child(parent dirID, name string) (dirID, bool) {
	id := t.index[t.slot(parent, name)]
	if id == 0 || t.nodes[id-1].flags&dirDead != 0 {
		return 0, false
	}
	return dirID(id - 1), true
}

// find returns the directory at a physical path. A nil table has no
// directories.
func (t *dirTable) find(path string) (dirID, bool) {
	if t == nil {
		return 0, false
	}
	if path == "." {
		return rootDir, true
	}
	at, rest := rootDir, path
	if l := len(t.lastPath); t.lastID != rootDir && len(path) >= l && path[:l] == t.lastPath {
		switch {
		case len(path) == l:
			return t.lastID, true
		case path[l] == '/':
			at, rest = t.lastID, path[l+1:]
		}
	}
	for rest != "" {
		head := rest
		if i := indexSlash(rest); i >= 0 {
			head, rest = rest[:i], rest[i+1:]
		} else {
			rest = ""
		}
		id, ok := t.child(at, head)
		if !ok {
			return 0, false
		}
		at = id
	}
	t.lastPath, t.lastID = path, at
	return at, true
}

func indexSlash(s string) int {
	for i := range len(s) {
		if s[i] == '/' {
			return i
		}
	}
	return -1
}

// add adds a directory that is not in the table yet. Its parent must be in the
// table.
func (t *dirTable) add(parent dirID, name string) (dirID, error) {
	if len(name) > maxText {
		return 0, errTooLong
	}
	if err := t.mem.charge(nodeBytes + int64(len(name))); err != nil {
		return 0, err
	}
	if 4*(t.slots+1) > 3*len(t.index) {
		t.grow()
	}
	id := dirID(len(t.nodes)) //nolint:gosec // see arena.add
	t.nodes = append(t.nodes, dirNode{parent: parent, name: t.names.add(name), mode: uint16(defaultDirMode)})
	i := t.slot(parent, name) // reuses the slot of a dead directory of this name
	if t.index[i] == 0 {
		t.slots++
	}
	t.index[i] = uint32(id) + 1
	return id, nil
}

// ensure returns the directory at a path, and adds it and its parents if
// needed.
func (t *dirTable) ensure(path string) (dirID, error) {
	if id, ok := t.find(path); ok {
		return id, nil
	}
	dir, base := split(path)
	parent, err := t.ensure(dir)
	if err != nil {
		return 0, err
	}
	id, err := t.add(parent, base)
	if err == nil {
		t.nodes[id].flags |= dirNamed
	}
	return id, err
}

// grow doubles index.
func (t *dirTable) grow() {
	old := t.index
	t.index, t.slots = make([]uint32, 2*len(old)), 0
	for _, id := range old {
		if id == 0 || t.nodes[id-1].flags&dirDead != 0 {
			continue
		}
		n := &t.nodes[id-1]
		t.index[t.slot(n.parent, string(t.names.bytes(n.name)))] = id
		t.slots++
	}
}

// forget removes a directory, so that find no longer returns it or any
// directory below it.
func (t *dirTable) forget(id dirID) {
	t.nodes[id].flags |= dirDead
	delete(t.attrs, id)
	t.lastPath, t.lastID = ".", rootDir
}

// markDead marks the directories below dead ones.
func (t *dirTable) markDead() {
	for i := range t.nodes {
		t.nodes[i].flags |= t.nodes[t.nodes[i].parent].flags & dirDead
	}
}

func (t *dirTable) isDead(id dirID) bool { return t.nodes[id].flags&dirDead != 0 }

// path returns the physical path of a directory.
func (t *dirTable) path(id dirID) string {
	if id == rootDir {
		return "."
	}
	if id == t.lastID {
		return t.lastPath
	}
	// Built backwards, from the last component to the first.
	b := t.scratch[:0]
	for ; id != rootDir; id = t.nodes[id].parent {
		name := t.names.bytes(t.nodes[id].name)
		for _, c := range slices.Backward(name) {
			b = append(b, c)
		}
		b = append(b, '/')
	}
	t.scratch = b
	b = b[:len(b)-1]
	slices.Reverse(b)
	return string(b)
}

// setAttrs stores the attributes of a directory.
func (t *dirTable) setAttrs(id dirID, attrs []tarfile.Attr) error {
	if len(attrs) == 0 {
		if t.attrs != nil {
			delete(t.attrs, id)
		}
		return nil
	}
	n := int64(64) // bytes of a map entry
	for _, a := range attrs {
		n += int64(len(a.Name)+len(a.Value)) + 32
	}
	if err := t.mem.charge(n); err != nil {
		return err
	}
	if t.attrs == nil {
		t.attrs = make(map[dirID][]tarfile.Attr)
	}
	t.attrs[id] = attrs
	return nil
}

// errTable is the error of a malformed encoding of a table.
var errTable = errors.New("malformed table of directories")

// encodedSize estimates the bytes that appendTo appends. It counts dead
// directories and whiteouts too.
func (t *dirTable) encodedSize() int {
	n := 25*len(t.nodes) + t.names.size() // about 25 bytes for a directory without its name
	for _, attrs := range t.attrs {
		for _, a := range attrs {
			n += len(a.Name) + len(a.Value) + 4
		}
	}
	return n
}

// appendTo appends the encoded table to b. It must be called after markDead.
func (t *dirTable) appendTo(b []byte) []byte {
	text := func(s []byte) { b = append(binary.AppendUvarint(b, uint64(len(s))), s...) }
	number := make([]dirID, len(t.nodes)) // in the encoding, which has no dead directories
	next := dirID(0)
	for i := range t.nodes {
		n := &t.nodes[i]
		if n.flags&dirDead != 0 {
			continue
		}
		number[i] = next
		next++
		b = binary.AppendUvarint(b, uint64(number[n.parent]))
		text(t.names.bytes(n.name))
		b = append(b, n.flags)
		for _, v := range []uint64{uint64(n.mode), uint64(n.uid), uint64(n.gid), uint64(n.ansec), uint64(n.mnsec)} {
			b = binary.AppendUvarint(b, v)
		}
		b = binary.AppendVarint(binary.AppendVarint(b, n.asec), n.msec)
		attrs := t.attrs[dirID(i)] //nolint:gosec // see add
		b = binary.AppendUvarint(b, uint64(len(attrs)))
		for _, a := range attrs {
			text([]byte(a.Name))
			text([]byte(a.Value))
		}
	}
	return b
}

// read adds the directories of an encoded table.
func (t *dirTable) read(b []byte) error {
	r := bytes.NewReader(b)
	bad := false
	number := func() uint64 {
		v, err := binary.ReadUvarint(r)
		bad = bad || err != nil
		return v
	}
	signed := func() int64 {
		v, err := binary.ReadVarint(r)
		bad = bad || err != nil
		return v
	}
	text := func() string {
		n := number()
		if n > uint64(r.Len()) { //nolint:gosec // a length
			bad = true
			return ""
		}
		s := make([]byte, n)
		_, _ = r.Read(s) // cannot fail: n was checked
		return string(s)
	}
	var ids []dirID
	for r.Len() > 0 {
		parent, name := number(), text()
		id := rootDir
		if len(ids) > 0 {
			if bad || parent >= uint64(len(ids)) || name == "" || indexSlash(name) >= 0 {
				return errTable
			}
			var ok bool
			if id, ok = t.child(ids[parent], name); !ok {
				var err error
				if id, err = t.add(ids[parent], name); err != nil {
					return err
				}
			}
		}
		ids = append(ids, id)
		flags, err := r.ReadByte()
		bad = bad || err != nil
		n := &t.nodes[id]
		n.flags = flags & (dirExplicit | dirOpaque)
		n.mode, n.uid, n.gid = uint16(number()&0o7777), uint32(number()), uint32(number()) //nolint:gosec // as appendTo wrote them
		n.ansec, n.mnsec = uint32(number()), uint32(number())                              //nolint:gosec // as above
		n.asec, n.msec = signed(), signed()
		var attrs []tarfile.Attr
		for left := number(); left > 0 && !bad; left-- {
			attrs = append(attrs, tarfile.Attr{Name: text(), Value: text()})
		}
		if bad {
			return errTable
		}
		if err := t.setAttrs(id, attrs); err != nil {
			return err
		}
	}
	return nil
}
