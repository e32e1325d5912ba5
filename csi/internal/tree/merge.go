package tree

import (
	"cmp"
	"errors"
	"hash/maphash"
)

// ErrOrder is returned by [Merger.Add] for a listing that is not in the byte order of its keys and has more than
// [MaxUnsorted] names.
var ErrOrder = errors.New("listing is not in byte order, and has more names than are kept to tell which were shown")

const (
	// MaxUnsorted is how many names a directory may have whose listing is not in byte order. Each costs 16 to 32 bytes
	// while the directory is read.
	MaxUnsorted = 1 << 18
	// maxHeld is how many files of an unsorted listing are held back in case that a directory of their name comes.
	maxHeld = 4096

	// freeSlots and freeHeld are what a Merger takes without asking [Merger.Room]: 256 KiB of hashes, and as much of files.
	freeSlots = 1 << 15
	freeHeld  = 512
	// heldCost is what a file that is held back takes, roughly: its name twice, its key and its ETag.
	heldCost = 512
)

// Merger applies the shadowing rule to the names of one directory while they stream by.
//
// A file "a" is shadowed by a directory "a/", but in key order everything that starts with "a" and goes on with a byte
// below "/" (such as "a-1") comes in between. The merger holds the file back until it has seen a key above "a/".
// A held file is always a proper prefix of the one held after it, because a key between "a" and "a/" starts with "a".
// So at most MaxName files are held, and mostly one. Names come out in key order, except that a held file comes after
// the names it was held for.
//
// Some stores list in another order: directory buckets of S3, and servers that walk a file system. From the first name out
// of order on (see also [Merger.Unsort]) the merger holds the last [maxHeld] files back instead, and shows each name once:
// as a file if its directory comes later than that. Which names were shown it knows by their hashes of 64 bits. So memory is
// bounded whatever the listing: sorted ones may be of any length, others have [MaxUnsorted] names at most.
type Merger[T any] struct {
	// Room, if set, is asked before the names of a large directory take so many bytes more. When it says no, a sorted
	// listing goes on without them, and an unsorted one holds fewer files back, or fails with [ErrOrder].
	Room func(bytes int) bool

	held []heldFile[T] // while sorted; held[i].name is a proper prefix of held[i+1].name
	last string        // order key of the last name that was added
	any  bool          // last is set

	seen   nameSet // order keys of all names so far; given up beyond MaxUnsorted while sorted
	jumble *jumble[T]
}

type heldFile[T any] struct {
	name  string
	value T
}

// jumble are the files held back of an unsorted listing, at most maxHeld.
type jumble[T any] struct {
	files map[string]T
	queue []string // their names, first come first; some are in files no more
	most  int      // how many of them there is room for
}

// Emit receives a name of the directory once it is certain.
type Emit[T any] func(name string, kind Kind, value T)

// Add takes the next name of the listing. A repeated directory or file is ignored (some servers repeat a common prefix
// at a page border, or on every page). The error is [ErrOrder].
func (m *Merger[T]) Add(name string, kind Kind, value T, emit Emit[T]) error {
	order := name
	if kind == Dir {
		order += "/"
	}
	if m.jumble == nil && m.any && order <= m.last {
		if order == m.last {
			return nil
		}
		if m.seen.given {
			return ErrOrder
		}
		m.unsort()
	}
	if m.jumble != nil {
		return m.addUnsorted(name, order, kind, value, emit)
	}
	m.last, m.any = order, true
	if !m.seen.given && !m.seen.add(order, m.Room) {
		m.seen = nameSet{given: true} // too many: from here on only a sorted listing can be shown
	}

	// Files whose directory would have come before this name are certain; one with exactly this directory is shadowed.
	certain := len(m.held)
	for certain > 0 && m.held[certain-1].name+"/" < order {
		certain--
	}
	m.release(certain, emit)
	if kind == Dir {
		if top := len(m.held) - 1; top >= 0 && m.held[top].name == name {
			m.held = m.held[:top]
		}
		emit(name, Dir, value)
		return nil
	}
	m.held = append(m.held, heldFile[T]{name, value})
	return nil
}

// Unsorted reports whether a name came out of order.
func (m *Merger[T]) Unsorted() bool { return m.jumble != nil }

// Unsort says at the start that names may come in any order. Without it a file that came before the first name out of
// order may be shown already when the directory comes that should hide it.
func (m *Merger[T]) Unsort() {
	if m.jumble == nil {
		m.unsort()
	}
}

// unsort goes over to the rules of unsorted listings.
func (m *Merger[T]) unsort() {
	m.jumble = &jumble[T]{files: map[string]T{}, most: freeHeld}
	for _, f := range m.held {
		m.jumble.files[f.name] = f.value
		m.jumble.queue = append(m.jumble.queue, f.name)
	}
	m.held = nil
}

func (m *Merger[T]) addUnsorted(name, order string, kind Kind, value T, emit Emit[T]) error {
	j := m.jumble
	if m.seen.has(order) || kind == File && m.seen.has(name+"/") {
		return nil
	}
	_, isHeld := j.files[name]
	shown := kind == Dir && !isHeld && m.seen.has(name) // as a file, before this
	if !m.seen.add(order, m.Room) {
		return ErrOrder
	}
	switch {
	case shown:
	case kind == Dir:
		delete(j.files, name)
		emit(name, Dir, value)
	default:
		j.files[name] = value
		j.queue = append(j.queue, name)
		if len(j.queue) > j.most && j.most < maxHeld && (m.Room == nil || m.Room(freeHeld*heldCost)) {
			j.most += freeHeld
		}
		for len(j.queue) > j.most {
			j.emitFirst(emit)
		}
	}
	return nil
}

// emitFirst shows the file that was held longest.
func (j *jumble[T]) emitFirst(emit Emit[T]) {
	name := j.queue[0]
	j.queue = j.queue[1:]
	if value, ok := j.files[name]; ok {
		delete(j.files, name)
		emit(name, File, value)
	}
}

// Flush ends the listing: every held file is certain now.
func (m *Merger[T]) Flush(emit Emit[T]) {
	m.release(0, emit)
	for m.jumble != nil && len(m.jumble.queue) > 0 {
		m.jumble.emitFirst(emit)
	}
}

// release emits the held files from index from on and forgets them.
func (m *Merger[T]) release(from int, emit Emit[T]) {
	for _, f := range m.held[from:] {
		emit(f.name, File, f.value)
	}
	clear(m.held[from:])
	m.held = m.held[:from]
}

// nameSet is a set of at most MaxUnsorted names by their hashes: open addressing, half full at most. The seed is random, so
// nobody can choose keys that collide; by chance one of 2^29 full sets has two names of one hash, of which the second is
// not shown.
type nameSet struct {
	seed  maphash.Seed
	slots []uint64 // 0 is free
	n     int
	given bool // given up: there were too many
	most  int  // how many names there may be; 0: MaxUnsorted
}

func (s *nameSet) hash(name string) uint64 { return max(maphash.String(s.seed, name), 1) }

// slot returns where a hash is, or would be.
func (s *nameSet) slot(h uint64) int {
	mask := len(s.slots) - 1
	i := int(h>>1) & mask //nolint:gosec // of 63 bits
	for s.slots[i] != 0 && s.slots[i] != h {
		i = (i + 1) & mask
	}
	return i
}

func (s *nameSet) has(name string) bool {
	return s.n > 0 && s.slots[s.slot(s.hash(name))] != 0
}

// add adds a name; false when the set is full, or room says that it must not grow.
func (s *nameSet) add(name string, room func(bytes int) bool) bool {
	if s.n == cmp.Or(s.most, MaxUnsorted) {
		return false
	}
	if s.slots == nil {
		s.seed, s.slots = maphash.MakeSeed(), make([]uint64, 64)
	}
	if 2*s.n >= len(s.slots) {
		old := s.slots
		if len(old) >= freeSlots && room != nil && !room(8*len(old)) {
			return false
		}
		s.slots = make([]uint64, 2*len(old))
		for _, h := range old {
			if h != 0 {
				s.slots[s.slot(h)] = h
			}
		}
	}
	h := s.hash(name)
	if i := s.slot(h); s.slots[i] == 0 {
		s.slots[i] = h
		s.n++
	}
	return true
}
