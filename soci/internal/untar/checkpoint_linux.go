package untar

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"golang.org/x/sys/unix"
)

// errState: a state and a directory do not belong together.
var errState = errors.New("the directory is not what the saved state says")

// savedRun is the form of a state.
type savedRun struct {
	Layer   json.RawMessage `json:"layer"`
	Dirs    []savedDir      `json:"dirs"`
	Waiting []savedLink     `json:"waiting,omitempty"`
	Key     []byte          `json:"key"`
	Names   []byte          `json:"names"` // see names
}

type savedDir struct {
	Path     []byte      `json:"path"`
	Mode     uint32      `json:"mode"`
	UID      uint32      `json:"uid"`
	GID      uint32      `json:"gid"`
	Times    [4]int64    `json:"times"` // seconds and nanoseconds of access, of modification
	Attrs    []savedAttr `json:"attrs,omitempty"`
	Explicit bool        `json:"explicit,omitempty"`
}

type savedAttr struct {
	Name  []byte `json:"name"`
	Value []byte `json:"value"`
}

// names is the set of non-directories that were made, as eight bytes for each path. The
// key is random and never leaves the machine, so no archive can be made to hold a name
// that looks like another.
type names struct {
	key  []byte
	made []uint64
}

func (n *names) hash(path string) uint64 {
	h := sha256.New()
	h.Write(n.key)
	h.Write([]byte(path))
	return binary.LittleEndian.Uint64(h.Sum(nil))
}

// track begins to remember names.
func (x *extraction) track() error {
	if x.checkpoints == nil {
		return nil
	}
	if x.names == nil {
		x.names = &names{key: make([]byte, 16)} // bytes: 128 bits can't be guessed
		if _, err := rand.Read(x.names.key); err != nil {
			return err
		}
	}
	x.in.between = x.checkpoint
	return nil
}

// untrack gives up: something was removed that names may hold.
func (x *extraction) untrack() {
	x.void()
	x.in.between = nil
}

func (x *extraction) void() {
	if x.checkpoints != nil {
		x.checkpoints.Void()
	}
}

// checkpoint is called by the reader between two entries.
func (x *extraction) checkpoint(at int64) error {
	g := &x.in.global
	if g.has != 0 || len(g.attrs) > 0 || !x.checkpoints.Due(at) {
		return nil
	}
	if err := x.settle(nil); err != nil {
		return err
	}
	state, err := x.save()
	if err != nil {
		return err
	}
	x.checkpoints.Save(at, state)
	return nil
}

// save describes an extraction of which nothing is pending.
func (x *extraction) save() ([]byte, error) {
	layer, err := x.layer.Save()
	if err != nil {
		return nil, err
	}
	s := savedRun{Layer: layer, Key: x.names.key}
	for path, d := range x.dirs {
		sd := savedDir{
			Path: []byte(path), Mode: d.mode, UID: d.uid, GID: d.gid, Explicit: d.explicit,
			Times: [4]int64{int64(d.times[0].Sec), int64(d.times[0].Nsec), int64(d.times[1].Sec), int64(d.times[1].Nsec)}, //nolint:unconvert // 32 bits on some systems
		}
		for _, a := range d.attrs {
			sd.Attrs = append(sd.Attrs, savedAttr{[]byte(a.name), []byte(a.value)})
		}
		s.Dirs = append(s.Dirs, sd)
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, ln := range x.waiting {
		s.Waiting = append(s.Waiting, savedLink{[]byte(ln.path), []byte(ln.target), []byte(ln.entry)})
	}
	s.Names = make([]byte, 0, 8*len(x.names.made))
	for _, h := range x.names.made {
		s.Names = binary.LittleEndian.AppendUint64(s.Names, h)
	}
	return json.Marshal(s)
}

// resume makes x what the one was that saved a state, and its directory too.
func (x *extraction) resume(state []byte) error {
	var s savedRun
	if err := json.Unmarshal(state, &s); err != nil {
		return fmt.Errorf("%w: %w", errState, err)
	}
	layer, err := Load(x.layer.Dir, s.Layer)
	if err != nil {
		return fmt.Errorf("%w: %w", errState, err)
	}
	x.layer = layer
	x.meter.Resume(layer)
	clear(x.dirs)
	for _, d := range s.Dirs {
		m := &dirMeta{explicit: d.Explicit}
		m.mode, m.uid, m.gid = d.Mode, d.UID, d.GID
		m.times = [2]unix.Timespec{timespec(stamp{d.Times[0], d.Times[1]}), timespec(stamp{d.Times[2], d.Times[3]})}
		for _, a := range d.Attrs {
			m.attrs = append(m.attrs, attr{string(a.Name), string(a.Value)})
		}
		x.dirs[string(d.Path)] = m
	}
	for _, ln := range s.Waiting {
		x.waiting = append(x.waiting, link{string(ln.Path), string(ln.Target), string(ln.Entry)})
	}
	x.names = &names{key: s.Key}
	for b := s.Names; len(b) >= 8; b = b[8:] {
		x.names.made = append(x.names.made, binary.LittleEndian.Uint64(b))
	}
	if x.dirs["."] == nil {
		return errState
	}
	return x.purge()
}

// purge removes from the directory what came after the state.
func (x *extraction) purge() error {
	known := make(map[uint64]bool, len(x.names.made))
	for _, h := range x.names.made {
		known[h] = true
	}
	for _, ln := range x.waiting {
		delete(known, x.names.hash(ln.path))
	}
	for dir := range x.dirs { // one may have taken the place of a file
		delete(known, x.names.hash(dir))
	}
	kept := 0
	for _, dir := range slices.Sorted(maps.Keys(x.dirs)) { // parents first
		if st, err := x.tree.lstat(dir); err != nil || st.Mode&unix.S_IFMT != unix.S_IFDIR {
			return fmt.Errorf("%w: directory %q", errState, shorten(dir))
		}
		if err := x.tree.unlock(dir); err != nil {
			return err
		}
		names, err := x.tree.names(dir)
		if err != nil {
			return err
		}
		for _, name := range names {
			path := join(dir, name)
			if x.dirs[path] != nil {
				continue
			}
			if known[x.names.hash(path)] {
				if st, err := x.tree.lstat(path); err == nil && st.Mode&unix.S_IFMT != unix.S_IFDIR {
					kept++
					continue
				}
			}
			if err := x.tree.removeAll(path, nil); err != nil {
				return err
			}
		}
	}
	if kept != len(known) {
		return fmt.Errorf("%w: %d files of %d are there", errState, kept, len(known))
	}
	return nil
}
