package untar

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/penstock/penstock/soci/internal/tarfile"
)

// errState is the error of a state that does not match the directory.
var errState = errors.New("the directory does not match the saved state")

// savedRun is the encoding of a state.
type savedRun struct {
	Layer   json.RawMessage `json:"layer"`
	Dirs    []byte          `json:"dirs"` // see dirTable.appendTo
	Waiting []savedLink     `json:"waiting,omitempty"`
	Key     []byte          `json:"key"`
	Names   []byte          `json:"names"` // see madeNames
}

// madeNames is the set of non-directories that were created, stored as an
// eight-byte hash of each path. The key of the hash is random and never leaves
// the machine, so an archive cannot provoke collisions.
type madeNames struct {
	key    []byte
	hashes [][]uint64 // chunks of namesChunk hashes; the last may be shorter
	n      int
	mem    *ledger
	full   bool // the memory did not suffice, so no more states can be saved
}

const namesChunk = 1 << 10

func (n *madeNames) hash(path string) uint64 {
	h := sha256.New()
	h.Write(n.key)
	h.Write([]byte(path))
	return binary.LittleEndian.Uint64(h.Sum(nil))
}

// add adds names, given their hashes. If the memory does not suffice, add drops
// the set; the extraction continues, but saves no more states.
func (n *madeNames) add(hashes ...uint64) {
	for _, h := range hashes {
		if n.full {
			return
		}
		if n.n%namesChunk == 0 {
			if n.mem.charge(8*namesChunk) != nil {
				n.drop()
				return
			}
			n.hashes = append(n.hashes, make([]uint64, 0, namesChunk))
		}
		last := &n.hashes[len(n.hashes)-1]
		*last = append(*last, h)
		n.n++
	}
}

// drop empties the set and returns its memory.
func (n *madeNames) drop() {
	n.mem.refund(8 * namesChunk * int64(len(n.hashes)))
	n.hashes, n.n, n.full = nil, 0, true
}

// trackNames starts to collect the names for states.
func (x *extraction) trackNames() error {
	if x.checkpoints == nil {
		return nil
	}
	if x.names == nil {
		x.names = &madeNames{key: make([]byte, 16), mem: x.layer.mem} // bytes: 128 bits can't be guessed
		if _, err := rand.Read(x.names.key); err != nil {
			return err
		}
	}
	x.in.Between = x.checkpoint
	return nil
}

// stopTracking invalidates the saved states and stops saving new ones. It is
// called before a file that the set may contain is removed.
func (x *extraction) stopTracking() {
	x.invalidateCheckpoints()
	x.in.Between = nil
}

func (x *extraction) invalidateCheckpoints() {
	if x.checkpoints != nil {
		x.checkpoints.Void()
	}
}

// checkpoint saves a state if one is due. The reader calls it between two
// entries.
func (x *extraction) checkpoint(at int64) error {
	if x.in.HasDefaults() || !x.checkpoints.Due(at) {
		return nil
	}
	if err := x.waitForWriters(nil); err != nil {
		return err
	}
	state, err := x.save()
	if err != nil {
		return err
	}
	if state == nil { // later states would be larger; earlier ones stay valid
		x.in.Between = nil
		return nil
	}
	x.checkpoints.Save(at, state)
	return nil
}

// stateBytes is the size of the fields of a state without their contents, in
// bytes.
const stateBytes = 512

// save returns the state of an extraction without pending operations, or nil if
// the set of names was dropped or the state would exceed Checkpoints.Max.
func (x *extraction) save() ([]byte, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	l := x.layer
	budget := &sizeBudget{bounded: x.checkpoints.Max > 0, left: x.checkpoints.Max}
	if x.names.full || !budget.take(8*x.names.n+x.dirs.encodedSize()+stateBytes) {
		x.names.drop()
		return nil, nil
	}
	x.dirs.markDead()
	s := savedRun{Key: x.names.key, Dirs: x.dirs.appendTo(nil)}
	for _, ln := range x.waiting {
		if x.dirs.isDead(ln.dir) {
			continue
		}
		saved := l.saveLink(ln)
		if !budget.take(saved.size()) {
			x.names.drop()
			return nil, nil
		}
		s.Waiting = append(s.Waiting, saved)
	}
	var err error
	s.Layer, err = l.save(budget)
	if errors.Is(err, ErrTooLarge) {
		x.names.drop()
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	s.Names = make([]byte, 0, 8*x.names.n)
	for _, chunk := range x.names.hashes {
		for _, h := range chunk {
			s.Names = binary.LittleEndian.AppendUint64(s.Names, h)
		}
	}
	return json.Marshal(s)
}

// resume restores the state of an earlier extraction, and removes all files
// from the directory that the state does not describe.
func (x *extraction) resume(ctx context.Context, state []byte) error {
	var s savedRun
	if err := json.Unmarshal(state, &s); err != nil {
		return fmt.Errorf("%w: %w", errState, err)
	}
	layer, err := load(x.layer.Dir, s.Layer, x.layer.mem)
	if err != nil {
		return fmt.Errorf("%w: %w", errState, err)
	}
	x.layer, x.dirs = layer, layer.dirs
	x.meter.Resume(layer)
	if len(s.Dirs) == 0 {
		return errState
	}
	if err := x.dirs.read(s.Dirs); err != nil {
		return fmt.Errorf("%w: %w", errState, err)
	}
	for _, ln := range s.Waiting {
		if x.waiting, err = layer.loadLink(x.waiting, ln); err != nil {
			return fmt.Errorf("%w: %w", errState, err)
		}
	}
	x.names = &madeNames{key: s.Key, mem: layer.mem}
	for b := s.Names; len(b) >= 8; b = b[8:] {
		x.names.add(binary.LittleEndian.Uint64(b))
	}
	return x.purge(ctx, s.Names)
}

// expectedNames is the set of names that the directory should hold.
type expectedNames struct {
	hashes []uint64 // sorted
	gone   []bool   // marks the names that were removed from the set
	n      int      // number of names left in the set
}

func (k *expectedNames) find(h uint64) (int, bool) {
	i, ok := slices.BinarySearch(k.hashes, h)
	return i, ok && !k.gone[i]
}

// remove removes a name from the set.
func (k *expectedNames) remove(h uint64) {
	if i, ok := k.find(h); ok {
		k.gone[i] = true
		k.n--
	}
}

// purge removes all files from the directory that the state does not describe.
func (x *extraction) purge(ctx context.Context, made []byte) error {
	k := &expectedNames{}
	for ; len(made) >= 8; made = made[8:] {
		k.hashes = append(k.hashes, binary.LittleEndian.Uint64(made))
	}
	slices.Sort(k.hashes)
	k.hashes = slices.Compact(k.hashes)
	k.gone, k.n = make([]bool, len(k.hashes)), len(k.hashes)
	for _, ln := range x.waiting {
		k.remove(x.names.hash(x.layer.linkPath(ln)))
	}
	for i := range x.dirs.nodes { // a directory may have replaced a file
		k.remove(x.names.hash(x.dirs.path(dirID(i)))) //nolint:gosec // see dirTable.add
	}
	kept := 0
	for i := range x.dirs.nodes { // parents first
		id := dirID(i) //nolint:gosec // as above
		dir := x.dirs.path(id)
		if st, err := x.tree.lstat(dir); err != nil || st.Mode&unix.S_IFMT != unix.S_IFDIR {
			return fmt.Errorf("%w: directory %q", errState, tarfile.Shorten(dir))
		}
		if err := x.tree.unlock(dir); err != nil {
			return err
		}
		err := x.tree.forEach(ctx, dir, func(name string) error {
			if _, ok := x.dirs.child(id, name); ok {
				return nil
			}
			path := join(dir, name)
			if _, ok := k.find(x.names.hash(path)); ok {
				if st, err := x.tree.lstat(path); err == nil && st.Mode&unix.S_IFMT != unix.S_IFDIR {
					kept++
					return nil
				}
			}
			return x.tree.removeAll(ctx, path, nil)
		})
		if err != nil {
			return err
		}
	}
	if kept != k.n {
		return fmt.Errorf("%w: %d of %d files exist", errState, kept, k.n)
	}
	return nil
}
