package tree

import "errors"

// ErrOrder is returned by [Merger.Add] when names do not arrive in the byte order of their keys.
var ErrOrder = errors.New("listing is not in byte order")

// Merger applies the shadowing rule to the names of one directory while they stream by.
//
// A file "a" is shadowed by a directory "a/", but in key order everything that starts with "a" and goes on with a byte
// below "/" (such as "a-1") comes in between. The merger holds the file back until it has seen a key above "a/".
//
// Memory is bounded whatever the listing: a held file is always a proper prefix of the one held after it, because a
// key between "a" and "a/" starts with "a". So at most MaxName files are held, and mostly one.
//
// Names come out in key order, except that a held file comes after the names it was held for.
type Merger[T any] struct {
	held []heldFile[T] // invariant: held[i].name is a proper prefix of held[i+1].name
	last string        // order key of the last name that was added
	any  bool          // last is set
}

type heldFile[T any] struct {
	name  string
	value T
}

// Emit receives a name of the directory once it is certain.
type Emit[T any] func(name string, kind Kind, value T)

// Add takes the next name of the listing. A repeated directory or file is ignored (some servers repeat a common prefix
// at a page border). A name out of order is [ErrOrder] and changes nothing.
func (m *Merger[T]) Add(name string, kind Kind, value T, emit Emit[T]) error {
	order := name
	if kind == Dir {
		order += "/"
	}
	if m.any && order <= m.last {
		if order == m.last {
			return nil
		}
		return ErrOrder
	}
	m.last, m.any = order, true

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

// Flush ends the listing: every held file is certain now.
func (m *Merger[T]) Flush(emit Emit[T]) { m.release(0, emit) }

// release emits the held files from index from on and forgets them.
func (m *Merger[T]) release(from int, emit Emit[T]) {
	for _, f := range m.held[from:] {
		emit(f.name, File, f.value)
	}
	clear(m.held[from:])
	m.held = m.held[:from]
}
