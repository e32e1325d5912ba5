package tarfile

import (
	"context"
	"fmt"
	"io"
	"sync/atomic"
)

// Block is a part of a stream. Its Data must not change until Release is
// called. Release is called once, from any goroutine.
type Block struct {
	Data    []byte
	Release func()
}

// BlockReader is a stream that lends out its memory instead of copying.
type BlockReader interface {
	// NextBlock returns the next bytes, at least one, or io.EOF at the end.
	NextBlock(ctx context.Context) (Block, error)
}

// Piece is a Block that is released when its last user drops it. Its methods
// are safe for concurrent use.
type Piece struct {
	uses    atomic.Int32
	release func()
}

// Hold adds a user.
func (p *Piece) Hold() { p.uses.Add(1) }

// Drop removes a user. A nil Piece has no users.
func (p *Piece) Drop() {
	if p != nil && p.uses.Add(-1) == 0 {
		p.release()
	}
}

// stream reads an archive from blocks.
type stream struct {
	src        BlockReader
	beforeWait func() error
	cur        *Piece
	left       []byte // unread bytes of cur
	pos        int64  // bytes read
	header     [BlockSize]byte
}

func (s *stream) close() {
	s.cur.Drop()
	s.cur, s.left = nil, nil
}

// fill fetches blocks until left has unread bytes. It returns io.EOF at the end
// of the stream.
func (s *stream) fill(ctx context.Context) error {
	for len(s.left) == 0 {
		s.close()
		if err := s.beforeWait(); err != nil {
			return err
		}
		b, err := s.src.NextBlock(ctx)
		if err != nil {
			return err
		}
		s.cur, s.left = &Piece{release: b.Release}, b.Data
		s.cur.Hold()
	}
	return nil
}

// block returns the next BlockSize bytes, valid until the next call, or io.EOF
// if the stream ends here.
func (s *stream) block(ctx context.Context) ([]byte, error) {
	if err := s.fill(ctx); err != nil {
		return nil, err
	}
	if len(s.left) >= BlockSize {
		b := s.left[:BlockSize]
		s.advance(BlockSize)
		return b, nil
	}
	for have := 0; have < BlockSize; {
		if err := s.fill(ctx); err != nil {
			return nil, truncated(err)
		}
		n := copy(s.header[have:], s.left)
		s.advance(n)
		have += n
	}
	return s.header[:], nil
}

// takeBytes returns up to most contiguous bytes and the piece that holds them.
func (s *stream) takeBytes(ctx context.Context, most int64) ([]byte, *Piece, error) {
	if err := s.fill(ctx); err != nil {
		return nil, nil, truncated(err)
	}
	n := int(min(most, int64(len(s.left))))
	b := s.left[:n]
	s.advance(n)
	return b, s.cur, nil
}

func (s *stream) skip(ctx context.Context, n int64) error {
	for n > 0 {
		b, _, err := s.takeBytes(ctx, n)
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

// errTruncated is the error of an archive that ends too early.
var errTruncated = fmt.Errorf("%w: %w", ErrFormat, io.ErrUnexpectedEOF)

// truncated turns io.EOF into errTruncated.
func truncated(err error) error {
	if err == io.EOF {
		return errTruncated
	}
	return err
}
