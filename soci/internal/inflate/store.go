package inflate

import (
	"errors"
	"io"
	"sync"
)

// storeBlock is the number of bytes that are read from the source at a time. It
// is much smaller than the spacing of segments, and large enough that the cost
// of locking is negligible.
const storeBlock = 128 << 10 // bytes

// errAbandoned ends a decoder whose output is no longer needed.
var errAbandoned = errors.New("abandoned")

// store holds the part of the compressed stream that the workers decode. One
// goroutine appends to it, and any goroutine may read it. The lock of wake
// guards all fields.
type store struct {
	wake   *sync.Cond // broadcast at every change
	base   int64      // offset of blocks[0]
	blocks [][]byte   // of storeBlock bytes, except that the last may be shorter
	free   [][]byte
	end    int64 // offset of the end of the last block
	err    error // the error that ended the source
	closed bool  // reads return errAbandoned
}

// readMore reads once from the source. The lock must not be held.
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
	n, err := src.Read(b[len(b):storeBlock]) // no other goroutine reads that part
	s.wake.L.Lock()
	// trimLocked may have dropped earlier blocks, but not this one, because it
	// is not full.
	s.blocks[len(s.blocks)-1] = b[:len(b)+n]
	s.end += int64(n)
	s.err = err
	s.wake.Broadcast()
	s.wake.L.Unlock()
}

// trimLocked drops whole blocks before an offset. The lock must be held.
func (s *store) trimLocked(before int64) {
	for len(s.blocks) > 0 && len(s.blocks[0]) == storeBlock && s.base+storeBlock <= before {
		s.base += storeBlock
		s.free = append(s.free, s.blocks[0][:0])
		s.blocks = s.blocks[1:]
	}
}

// copyLocked copies the stored bytes from an offset on, or nothing if they were
// dropped. The lock must be held.
func (s *store) copyLocked(dst []byte, at int64) (n int) {
	if at < s.base {
		return 0
	}
	for i := int((at - s.base) / storeBlock); i < len(s.blocks) && n < len(dst); i++ {
		n += copy(dst[n:], s.blocks[i][at+int64(n)-s.base-int64(i)*storeBlock:])
	}
	return n
}

// rest returns the stored bytes from an offset on, without a copy, and empties
// the store.
func (s *store) rest(at int64) [][]byte {
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

// cursor reads a store. One goroutine may use it at a time.
type cursor struct {
	s         *store
	at        int64
	abandoned func() bool // unless nil, reads fail once it returns true; called with the lock held
}

// Read implements io.Reader. It waits for data.
func (c *cursor) Read(p []byte) (int, error) {
	s := c.s
	s.wake.L.Lock()
	defer s.wake.L.Unlock()
	for notified := false; ; notified = true {
		switch {
		case s.closed, c.at < s.base, c.abandoned != nil && c.abandoned():
			return 0, errAbandoned
		case c.at < s.end:
			n := s.copyLocked(p, c.at)
			c.at += int64(n)
			return n, nil
		case s.err != nil:
			return 0, s.err
		case !notified:
			s.wake.Broadcast() // the goroutine that fills the store may read more now
		}
		s.wake.Wait()
	}
}
