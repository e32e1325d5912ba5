package untar

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/penstock/penstock/soci/internal/tarfile"
)

// linkResolver creates the hard links of an extraction whose targets are later
// entries. The target of a link may be another such link, in any order and even
// in circles. A pass tries each link once, after the link that is its target.
type linkResolver struct {
	x     *extraction
	links []link // in the order of the archive
	state []linkState
	names []uint32 // indexes of links, sorted by directory and name
	todo  []int
}

type linkState uint8

const (
	linkNew     linkState = iota
	linkPending           // waits for the link that is its target, or is part of a circle
	linkMissing           // its target does not exist
	linkMade
	linkReplaced // a later entry has its name
)

// forwardLinks creates the links whose targets are later entries. The targets
// of the remaining links lie in lower layers.
func (x *extraction) forwardLinks(ctx context.Context) error {
	l := x.layer
	f := &linkResolver{x: x, links: x.waiting, state: make([]linkState, len(x.waiting)), names: make([]uint32, len(x.waiting))}
	x.waiting = nil
	for i := range f.names {
		f.names[i] = uint32(i) //nolint:gosec // G115: the ledger ends long before
	}
	slices.SortFunc(f.names, func(a, b uint32) int { return cmp.Or(f.compare(a, b), cmp.Compare(a, b)) })
	kept := f.names[:0]
	for k, i := range f.names {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		ln := f.links[i]
		// A later entry has the same name.
		gone := l.dirs.isDead(ln.dir) || k+1 < len(f.names) && f.compare(i, f.names[k+1]) == 0
		if !gone {
			_, err := x.tree.lstat(l.linkPath(ln))
			gone = err == nil || err == unix.ENOTDIR
		}
		if gone {
			f.state[i] = linkReplaced
		} else {
			kept = append(kept, i)
		}
	}
	f.names = kept
	// One pass creates all links, unless the path of a target crosses a
	// symbolic link that one of these hard links has yet to create. A path
	// crosses at most maxLinks symbolic links, so maxLinks passes suffice.
	for range maxLinks {
		made, err := f.pass(ctx)
		if err != nil {
			return err
		}
		if !made {
			break
		}
	}
	for i, ln := range f.links {
		if f.state[i] < linkMade {
			l.lower = append(l.lower, ln)
		}
	}
	return nil
}

func (f *linkResolver) compare(i, k uint32) int {
	l, a, b := f.x.layer, f.links[i], f.links[k]
	return cmp.Or(cmp.Compare(a.dir, b.dir), bytes.Compare(l.texts.bytes(a.name), l.texts.bytes(b.name)))
}

// pass tries all links that do not exist yet, and reports whether it created
// one.
func (f *linkResolver) pass(ctx context.Context) (made bool, err error) {
	for i := range f.state {
		if f.state[i] < linkMade {
			f.state[i] = linkNew
		}
	}
	for i := range f.links {
		f.todo = append(f.todo[:0], i)
		for len(f.todo) > 0 {
			if ctx.Err() != nil {
				return made, context.Cause(ctx)
			}
			done, err := f.step(f.todo[len(f.todo)-1])
			if err != nil {
				return made, err
			}
			made = made || done
		}
	}
	return made, nil
}

// step tries to create link i, the last of todo. If the target of link i is
// another link that was not tried yet, step appends that link to todo instead.
// It reports whether it created link i.
func (f *linkResolver) step(i int) (bool, error) {
	x, l, ln := f.x, f.x.layer, f.links[i]
	if f.state[i] >= linkMissing {
		f.todo = f.todo[:len(f.todo)-1]
		return false, nil
	}
	target := l.linkTarget(ln)
	dir, base := split(target)
	parent, in, err := x.resolve(dir, false)
	if err == nil {
		if next := f.find(in, base); next >= 0 && f.state[i] == linkNew && f.state[next] == linkNew && next != i {
			f.state[i] = linkPending
			f.todo = append(f.todo, next)
			return false, nil
		}
		if _, ok := x.dirs.child(in, base); ok {
			err = badf("hard link to directory %q", tarfile.Shorten(target))
		} else {
			err = x.tree.link(join(parent, base), x.tree, l.linkPath(ln))
		}
	}
	f.todo = f.todo[:len(f.todo)-1]
	switch {
	case err == nil:
		f.state[i] = linkMade
		return true, nil
	case errors.Is(err, unix.ENOENT):
		f.state[i] = linkMissing
		return false, nil
	}
	return false, &Error{Entry: l.linkEntry(ln), Err: err}
}

// find returns the index of the link with a name in a directory, or -1.
func (f *linkResolver) find(dir dirID, name string) int {
	l := f.x.layer
	k, ok := slices.BinarySearchFunc(f.names, name, func(i uint32, name string) int {
		ln := f.links[i]
		return cmp.Or(cmp.Compare(ln.dir, dir), cmp.Compare(string(l.texts.bytes(ln.name)), name))
	})
	if !ok {
		return -1
	}
	return int(f.names[k])
}
