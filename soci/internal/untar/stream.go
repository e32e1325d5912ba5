package untar

import (
	"context"
	"fmt"
	"io"
	"sync/atomic"
)

// Block is a piece of a stream. Data must not change until Release, which is called
// once, from any goroutine.
type Block struct {
	Data    []byte
	Release func()
}

// BlockReader is a stream that hands over its memory. A stream given to [Extract]
// that has this method too is never read by Read, and its bytes are not copied: they
// are written to the file from where they lie. The number of blocks that are out
// at a time is bounded by what the writers have not written yet; a stream with few
// blocks of its own slows down, but does not block, an extraction that has given
// all blocks back but one.
type BlockReader interface {
	// NextBlock returns the next bytes, which are not empty, or io.EOF.
	NextBlock(ctx context.Context) (Block, error)
}

// piece is a Block that several files may lie in.
type piece struct {
	uses    atomic.Int32
	release func()
}

func (p *piece) hold() { p.uses.Add(1) }

func (p *piece) drop() {
	if p != nil && p.uses.Add(-1) == 0 {
		p.release()
	}
}

// copied makes a BlockReader of an ordinary stream, with buffers of the pool.
type copied struct {
	r    io.Reader
	pool *Pool
	err  error
}

// NextBlock implements BlockReader.
func (c *copied) NextBlock(ctx context.Context) (Block, error) {
	if c.err != nil {
		return Block{}, c.err
	}
	buf, err := c.pool.get(ctx)
	if err != nil {
		return Block{}, err
	}
	n := 0
	for n < chunk && c.err == nil {
		var more int
		more, c.err = c.r.Read(buf[n:])
		n += more
	}
	if n == 0 {
		c.pool.put(buf)
		return Block{}, c.err
	}
	return Block{Data: buf[:n], Release: func() { c.pool.put(buf) }}, nil
}

// stream is the archive as the parser reads it.
type stream struct {
	src    BlockReader
	flush  func() error // called before waiting for a block: nobody may sit on blocks then
	cur    *piece
	left   []byte
	pos    int64 // bytes taken
	header [sector]byte
}

func (s *stream) close() {
	s.cur.drop()
	s.cur, s.left = nil, nil
}

// fill makes sure that left is not empty. io.EOF is the end of the stream.
func (s *stream) fill(ctx context.Context) error {
	for len(s.left) == 0 {
		s.close()
		if err := s.flush(); err != nil {
			return err
		}
		b, err := s.src.NextBlock(ctx)
		if err != nil {
			return err
		}
		s.cur, s.left = &piece{release: b.Release}, b.Data
		s.cur.hold()
	}
	return nil
}

// sector returns the next header block, valid until the next call. io.EOF: the
// stream ends here.
func (s *stream) sector(ctx context.Context) ([]byte, error) {
	if err := s.fill(ctx); err != nil {
		return nil, err
	}
	if len(s.left) >= sector {
		b := s.left[:sector]
		s.advance(sector)
		return b, nil
	}
	for have := 0; have < sector; {
		if err := s.fill(ctx); err != nil {
			return nil, unexpected(err)
		}
		n := copy(s.header[have:], s.left)
		s.advance(n)
		have += n
	}
	return s.header[:], nil
}

// take returns up to most bytes that lie together, and the piece they lie in.
func (s *stream) take(ctx context.Context, most int64) ([]byte, *piece, error) {
	if err := s.fill(ctx); err != nil {
		return nil, nil, unexpected(err)
	}
	n := int(min(most, int64(len(s.left))))
	b := s.left[:n]
	s.advance(n)
	return b, s.cur, nil
}

func (s *stream) skip(ctx context.Context, n int64) error {
	for n > 0 {
		b, _, err := s.take(ctx, n)
		if err != nil {
			return err
		}
		n -= int64(len(b))
	}
	return nil
}

func (s *stream) advance(n int) {
	s.left = s.left[n:]
	s.pos += int64(n)
}

// errEnd: bytes are missing.
var errEnd = fmt.Errorf("%w: %w", ErrFormat, io.ErrUnexpectedEOF)

// unexpected turns an end where bytes are missing into a failure of the archive.
func unexpected(err error) error {
	if err == io.EOF {
		return errEnd
	}
	return err
}
