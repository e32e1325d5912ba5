package inflate

import (
	"errors"
	"io"
	"sync"
)

// storeBlock is how much of the source is read at a time: small beside a hop, large
// enough that a lock for each is nothing.
const storeBlock = 128 << 10 // bytes

// errAbandoned ends a decoder that nobody needs any more.
var errAbandoned = errors.New("abandoned")

// store holds the part of the compressed stream that is in work. One goroutine
// appends, any may read; all fields are guarded by the lock of wake.
type store struct {
	wake   *sync.Cond // something has changed
	base   int64      // offset of blocks[0]
	blocks [][]byte   // of storeBlock each, but the last one may be less
	free   [][]byte
	end    int64 // offset behind the last block
	err    error // why the source has no more
	closed bool  // readers give up
}

// add reads once more; the lock is not held.
func (s *store) readMore(src io.Reader) {
	s.wake.L.Lock()
	last := len(s.blocks) - 1
	if last < 0 || len(s.blocks[last]) == storeBlock {
		var b []byte
		if n := len(s.free); n > 0 {
			b, s.free = s.free[n-1], s.free[:n-1]
		} else {
			b = make([]byte, 0, storeBlock)
		}
		s.blocks = append(s.blocks, b)
		last++
	}
	b := s.blocks[last]
	s.wake.L.Unlock()
	n, err := src.Read(b[len(b):storeBlock]) // nobody else looks at that
	s.wake.L.Lock()
	// Blocks before this one may have been forgotten, this one not: it isn't full.
	s.blocks[len(s.blocks)-1] = b[:len(b)+n]
	s.end += int64(n)
	s.err = err
	s.wake.Broadcast()
	s.wake.L.Unlock()
}

// trim forgets whole blocks before an offset.
func (s *store) trim(before int64) {
	for len(s.blocks) > 0 && len(s.blocks[0]) == storeBlock && s.base+storeBlock <= before {
		s.base += storeBlock
		s.free = append(s.free, s.blocks[0][:0])
		s.blocks = s.blocks[1:]
	}
}

// copyAt copies what is there from an offset on; nothing if that has been forgotten.
func (s *store) copyAt(dst []byte, at int64) (n int) {
	if at < s.base {
		return 0
	}
	for i := int((at - s.base) / storeBlock); i < len(s.blocks) && n < len(dst); i++ {
		n += copy(dst[n:], s.blocks[i][at+int64(n)-s.base-int64(i)*storeBlock:])
	}
	return n
}

// from returns what is there from an offset on, not copied, and forgets all.
func (s *store) from(at int64) [][]byte {
	var out [][]byte
	off := s.base
	for _, b := range s.blocks {
		if skip := at - off; skip < int64(len(b)) {
			out = append(out, b[max(0, skip):])
		}
		off += int64(len(b))
	}
	s.blocks, s.base = nil, off
	return out
}

// cursor reads a store; one goroutine uses it at a time.
type cursor struct {
	s         *store
	at        int64
	abandoned func() bool // asked under the lock: give up?
}

// Read is io.Reader. It waits for data.
func (c *cursor) Read(p []byte) (int, error) {
	s := c.s
	s.wake.L.Lock()
	defer s.wake.L.Unlock()
	for told := false; ; told = true {
		switch {
		case s.closed, c.at < s.base, c.abandoned != nil && c.abandoned():
			return 0, errAbandoned
		case c.at < s.end:
			n := s.copyAt(p, c.at)
			c.at += int64(n)
			return n, nil
		case s.err != nil:
			return 0, s.err
		case !told:
			s.wake.Broadcast() // there may be room now for who fills the store
		}
		s.wake.Wait()
	}
}
