package fs

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
)

// What things cost a process, roughly and rather too much; measured with 2,000 open files and 200,000 names.
const (
	// fileCost is an open file without its window, which the range engine's budget pays for.
	fileCost = 8 << 10
	// dirCost is an open directory: a page of the listing, two batches, and the names seen of one that is not large. What
	// the names of a large one take is added while it is listed, see tree.Merger.Room.
	dirCost = 512 << 10
	// inodeCost is an inode that the kernel knows.
	inodeCost = 2 << 10
)

// DefaultMemory is the memory that limits are made from where none is given.
const DefaultMemory = 256 << 20

// ErrTooManyOpen is returned by an open beyond the [Limits].
var ErrTooManyOpen = errors.New("too many open files")

// Limits bound what programs can make the file systems of one process keep: open files and directories by refusing
// more, inodes by asking the kernel to forget. One Limits is shared by all file systems of a process; it is safe for
// parallel use.
//
// A file system may have as many files open as would still be left for another one: the first gets half of all places,
// and however many of them are greedy, the next one finds places free. The same holds for replies to reads, which wait.
type Limits struct {
	memory  int64
	opens   int64 // bytes for open files and directories
	replies int64 // bytes for replies to reads
	inodes  int   // inodes for all file systems

	mu     sync.Mutex // a leaf lock; guards what follows
	used   int64      // bytes of all open files and directories
	flying int64      // bytes of all replies under way; <= replies, but for the first of each file system
	known  int        // inodes of all file systems
	all    map[*share]struct{}
}

// NewLimits returns limits in proportion to the memory that a process buffers reads with; 0 is [DefaultMemory]. Open files
// and directories, inodes, and replies to reads cost at most half of it each.
func NewLimits(memory int64) *Limits {
	if memory <= 0 {
		memory = DefaultMemory
	}
	return LimitInodes(memory, int(memory/2/inodeCost))
}

// LimitInodes is [NewLimits] with a number of inodes that is not in proportion.
func LimitInodes(memory int64, inodes int) *Limits {
	return &Limits{memory: memory, opens: memory / 2, replies: memory / 2, inodes: inodes, all: map[*share]struct{}{}}
}

// share is what one file system has of the limits.
type share struct {
	l       *Limits
	opened  int64 // guarded by l.mu, as what follows up to ended
	flying  int64
	queue   []*reply // reads that wait, first come first
	known   int
	ended   bool
	crowded chan struct{} // capacity 1: this file system should have the kernel forget inodes
}

func (l *Limits) share() *share {
	s := &share{l: l, crowded: make(chan struct{}, 1)}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all[s] = struct{}{}
	return s
}

// admits decides whether a file system that has mine of total places, used of which are taken by all, may take cost more.
func admits(mine, used, total, cost int64) bool { return mine+cost <= total-used }

// open takes a place for an open file or directory.
func (s *share) open(cost int64) error {
	s.l.mu.Lock()
	defer s.l.mu.Unlock()
	if !admits(s.opened, s.l.used, s.l.opens, cost) {
		return fmt.Errorf("%w: this mount holds %d of %d MiB for open files and directories, all mounts of the process hold %d; close some, or give the process more memory (now %d MiB)",
			ErrTooManyOpen, s.opened>>20, s.l.opens>>20, s.l.used>>20, s.l.memory>>20)
	}
	if !s.ended {
		s.opened += cost
		s.l.used += cost
	}
	return nil
}

// release gives a place back.
func (s *share) release(cost int64) {
	s.l.mu.Lock()
	defer s.l.mu.Unlock()
	if s.ended {
		return // end has given it back
	}
	s.opened -= cost
	s.l.used -= cost
}

// inode counts n inodes more (or fewer). Beyond the limit the file system that has the most is asked to give up some.
func (s *share) inode(n int) {
	s.l.mu.Lock()
	defer s.l.mu.Unlock()
	if s.ended {
		return
	}
	s.known += n
	s.l.known += n
	if n <= 0 || s.l.known <= s.l.inodes {
		return
	}
	most := s
	for o := range s.l.all {
		if o.known > most.known {
			most = o
		}
	}
	select {
	case most.crowded <- struct{}{}:
	default: // told already
	}
}

// surplus returns how many inodes the file system should give up: what there is too much of in all, and an eighth more, so
// that it is not asked again at once; at most what it has.
func (s *share) surplus() int {
	s.l.mu.Lock()
	defer s.l.mu.Unlock()
	if s.l.known <= s.l.inodes {
		return 0
	}
	return min(s.l.known-s.l.inodes+s.l.inodes/8, s.known)
}

// full reports whether there are twice as many inodes as there should be: the kernel does not forget as fast as it learns.
func (s *share) full() bool {
	s.l.mu.Lock()
	defer s.l.mu.Unlock()
	return s.l.known >= 2*s.l.inodes
}

// end gives everything back, for good.
func (s *share) end() {
	s.l.mu.Lock()
	defer s.l.mu.Unlock()
	s.ended = true // replies under way are given back one by one
	s.l.used -= s.opened
	s.l.known -= s.known
	s.opened, s.known = 0, 0
	delete(s.l.all, s)
}

// reply is a read that waits for its place.
type reply struct {
	bytes int64
	ready chan struct{} // closed when it has its place
}

// reserve takes n bytes for the reply to a read. If the file system has its share it waits for them, and calls waiting
// before it does.
func (s *share) reserve(ctx context.Context, n int64, waiting func()) error {
	s.l.mu.Lock()
	if len(s.queue) == 0 && s.takeReplyLocked(n) {
		s.l.mu.Unlock()
		return nil
	}
	r := &reply{bytes: n, ready: make(chan struct{})}
	s.queue = append(s.queue, r)
	s.l.mu.Unlock()
	waiting()
	select {
	case <-r.ready:
		return nil
	case <-ctx.Done():
	}
	s.l.mu.Lock()
	defer s.l.mu.Unlock()
	if i := slices.Index(s.queue, r); i >= 0 {
		s.queue = slices.Delete(s.queue, i, i+1)
	} else {
		s.l.flying -= n // it had its place by then
		s.flying -= n
	}
	s.l.grantLocked()
	return ctx.Err()
}

// unreserve gives the bytes of a reply back.
func (s *share) unreserve(n int64) {
	s.l.mu.Lock()
	defer s.l.mu.Unlock()
	s.flying -= n
	s.l.flying -= n
	s.l.grantLocked()
}

// takeReplyLocked takes n bytes if the file system may have them. One that has none may always have one reply, so that a
// reply larger than its share is sent all the same.
func (s *share) takeReplyLocked(n int64) bool {
	if s.flying > 0 && !admits(s.flying, s.l.flying, s.l.replies, n) {
		return false
	}
	s.flying += n
	s.l.flying += n
	return true
}

// grantLocked gives places to the reads that wait, a read of each file system in turn.
func (l *Limits) grantLocked() {
	for again := true; again; {
		again = false
		for s := range l.all {
			if len(s.queue) > 0 && s.takeReplyLocked(s.queue[0].bytes) {
				close(s.queue[0].ready)
				s.queue = s.queue[1:]
				again = true
			}
		}
	}
}
