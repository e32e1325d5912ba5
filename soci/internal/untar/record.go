package untar

import (
	"encoding/json"
	"errors"
)

// savedLayer is the encoding of a Layer. Paths are byte slices, because they
// may hold any bytes, and JSON strings would change bytes that are not UTF-8.
type savedLayer struct {
	Entries   int64        `json:"entries"`
	Files     int64        `json:"files"`
	Bytes     int64        `json:"bytes"`
	Whiteouts []savedNames `json:"whiteouts,omitempty"`
	Opaque    [][]byte     `json:"opaque,omitempty"`
	Implicit  [][]byte     `json:"implicit,omitempty"`
	Lower     []savedLink  `json:"lower,omitempty"`
	Notes     []Note       `json:"notes,omitempty"`
	Blocks    int64        `json:"blocks"`
	Inodes    int64        `json:"inodes"`
}

type savedNames struct {
	Dir   []byte   `json:"dir"`
	Names [][]byte `json:"names"`
}

type savedLink struct {
	Path   []byte `json:"path"`
	Target []byte `json:"target"`
	Entry  []byte `json:"entry"`
}

// size returns the bytes that the link takes from a sizeBudget.
func (ln *savedLink) size() int {
	return len(ln.Path) + len(ln.Target) + len(ln.Entry) + 24
}

// ErrTooLarge is the error of Save for a layer whose encoding exceeds the
// bound.
var ErrTooLarge = errors.New("the layer has too many whiteouts, links and undescribed directories to be saved")

// Save encodes an extracted layer for [Load], without the files in its
// directory. It must be called before Merge and Overlay. It returns ErrTooLarge
// if the encoding takes more than about max bytes, unless max is 0.
func (l *Layer) Save(max int64) ([]byte, error) {
	return l.save(&sizeBudget{bounded: max != 0, left: max})
}

// sizeBudget is the unused part of the bound on an encoding, in bytes.
type sizeBudget struct {
	bounded bool
	left    int64
}

// take subtracts an item with n bytes of texts, and reports whether it fits.
func (b *sizeBudget) take(n int) bool {
	b.left -= int64(n)*4/3 + 8 // base64, quotes, braces
	return !b.bounded || b.left >= 0
}

func (l *Layer) save(budget *sizeBudget) ([]byte, error) {
	s := savedLayer{
		Entries: l.Entries, Files: l.Files, Bytes: l.Bytes, Notes: l.notes.list(),
		Blocks: l.usage.blocks.Load(), Inodes: l.usage.inodes.Load(),
	}
	t := l.dirs
	for i := range t.nodes {
		id := dirID(i) //nolint:gosec // see dirTable.add
		flags := t.nodes[i].flags
		if flags&dirDead != 0 || flags&dirOpaque == 0 && flags&(dirExplicit|dirNamed) != 0 {
			continue
		}
		path := []byte(t.path(id))
		if flags&dirOpaque != 0 {
			if !budget.take(len(path)) {
				return nil, ErrTooLarge
			}
			s.Opaque = append(s.Opaque, path)
		}
		if flags&(dirExplicit|dirNamed) == 0 {
			if !budget.take(len(path)) {
				return nil, ErrTooLarge
			}
			s.Implicit = append(s.Implicit, path)
		}
	}
	for i, w := range l.whiteouts {
		if t.isDead(w.dir) {
			continue
		}
		if i == 0 || l.whiteouts[i-1].dir != w.dir || len(s.Whiteouts) == 0 {
			dir := []byte(t.path(w.dir))
			if !budget.take(len(dir)) {
				return nil, ErrTooLarge
			}
			s.Whiteouts = append(s.Whiteouts, savedNames{Dir: dir})
		}
		at := &s.Whiteouts[len(s.Whiteouts)-1]
		at.Names = append(at.Names, t.names.bytes(w.name))
		if !budget.take(int(w.name.n) + 24) {
			return nil, ErrTooLarge
		}
	}
	for _, ln := range l.lower {
		saved := l.saveLink(ln)
		if !budget.take(saved.size()) {
			return nil, ErrTooLarge
		}
		s.Lower = append(s.Lower, saved)
	}
	return json.Marshal(s)
}

func (l *Layer) saveLink(ln link) savedLink {
	return savedLink{[]byte(l.linkPath(ln)), []byte(l.linkTarget(ln)), []byte(l.linkEntry(ln))}
}

// loadLink appends a saved link.
func (l *Layer) loadLink(to []link, ln savedLink) ([]link, error) {
	parent, base := split(string(ln.Path))
	dir, err := l.dirs.ensure(parent)
	if err != nil {
		return to, err
	}
	return l.addLink(to, dir, string(ln.Path), base, string(ln.Target), string(ln.Entry))
}

// Load returns the layer that an earlier process extracted into dir and encoded
// by Save. It equals the layer that Extract returned, except that its memory is
// not charged to a Memory.
func Load(dir string, saved []byte) (*Layer, error) {
	l, err := load(dir, saved, nil)
	if err != nil {
		return nil, &Error{Err: err}
	}
	l.sortWhiteouts()
	return l, nil
}

func load(dir string, saved []byte, mem *ledger) (*Layer, error) {
	var s savedLayer
	if err := json.Unmarshal(saved, &s); err != nil {
		return nil, err
	}
	l := &Layer{Dir: dir, Entries: s.Entries, Files: s.Files, Bytes: s.Bytes, dirs: newDirTable(mem), mem: mem}
	l.dirs.nodes[rootDir].flags = dirNamed
	for _, n := range s.Whiteouts {
		id, err := l.dirs.ensure(string(n.Dir))
		if err != nil {
			return nil, err
		}
		for _, name := range n.Names {
			if err := l.addWhiteout(id, string(name)); err != nil {
				return nil, err
			}
		}
	}
	for _, d := range s.Opaque {
		id, err := l.dirs.ensure(string(d))
		if err != nil {
			return nil, err
		}
		l.dirs.nodes[id].flags |= dirOpaque
	}
	for _, d := range s.Implicit {
		id, err := l.dirs.ensure(string(d))
		if err != nil {
			return nil, err
		}
		l.dirs.nodes[id].flags &^= dirNamed
	}
	for _, ln := range s.Lower {
		var err error
		if l.lower, err = l.loadLink(l.lower, ln); err != nil {
			return nil, err
		}
	}
	for _, n := range s.Notes {
		l.notes.merge(n)
	}
	l.usage.blocks.Store(s.Blocks)
	l.usage.inodes.Store(s.Inodes)
	return l, nil
}

// Resume counts a layer from [Load] against the limits.
func (m *Meter) Resume(l *Layer) {
	m.entries.Add(l.Entries)
	m.bytes.Add(l.Bytes)
}
