package untar

import (
	"encoding/json"
	"maps"
	"slices"
)

// savedLayer is the form of a Layer on disk. Paths may hold any bytes, so they are
// kept as bytes: JSON strings would bend what is not UTF-8.
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

// Save returns what [Load] needs to know of an extracted layer that neither Merge
// nor Overlay has touched. Where it lies is not part of that.
func (l *Layer) Save() ([]byte, error) {
	s := savedLayer{
		Entries: l.Entries, Files: l.Files, Bytes: l.Bytes,
		Opaque: bytesOf(l.opaque), Implicit: bytesOf(l.implicit), Notes: l.notes.list(),
		Blocks: l.usage.blocks.Load(), Inodes: l.usage.inodes.Load(),
	}
	for _, dir := range slices.Sorted(maps.Keys(l.whiteouts)) {
		n := savedNames{Dir: []byte(dir)}
		for _, name := range l.whiteouts[dir] {
			n.Names = append(n.Names, []byte(name))
		}
		s.Whiteouts = append(s.Whiteouts, n)
	}
	for _, ln := range l.lower {
		s.Lower = append(s.Lower, savedLink{[]byte(ln.path), []byte(ln.target), []byte(ln.entry)})
	}
	return json.Marshal(s)
}

func bytesOf(set map[string]bool) [][]byte {
	var out [][]byte
	for _, k := range slices.Sorted(maps.Keys(set)) {
		out = append(out, []byte(k))
	}
	return out
}

// Load returns the layer that an earlier process extracted into dir and that its
// Save described. It is as the one that Extract returned.
func Load(dir string, saved []byte) (*Layer, error) {
	var s savedLayer
	if err := json.Unmarshal(saved, &s); err != nil {
		return nil, &Error{Err: err}
	}
	l := &Layer{
		Dir: dir, Entries: s.Entries, Files: s.Files, Bytes: s.Bytes,
		whiteouts: make(map[string][]string), opaque: make(map[string]bool), implicit: make(map[string]bool),
	}
	for _, n := range s.Whiteouts {
		for _, name := range n.Names {
			l.whiteouts[string(n.Dir)] = append(l.whiteouts[string(n.Dir)], string(name))
		}
	}
	for _, d := range s.Opaque {
		l.opaque[string(d)] = true
	}
	for _, d := range s.Implicit {
		l.implicit[string(d)] = true
	}
	for _, ln := range s.Lower {
		l.lower = append(l.lower, link{string(ln.Path), string(ln.Target), string(ln.Entry)})
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
