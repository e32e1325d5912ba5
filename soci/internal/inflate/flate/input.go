package flate

import (
	"bytes"
	"encoding/binary"
	"io"
	"slices"
)

const (
	// inSize is how many compressed bytes are held at a time: large enough that a
	// read of the source and the move of the remainder are noise, small enough to
	// stay in the first two cache levels. A power of two: positions are masked.
	inSize = 64 << 10
	inMask = inSize - 1

	// maxEmptyReads: a source that says neither data nor error this often in a row
	// is broken (the number is bufio's).
	maxEmptyReads = 100
)

// Input is a source of compressed bytes that hands back what a decoder read ahead:
// after the end of a stream its position is the byte behind it.
type Input struct {
	src       io.Reader
	prepended [][]byte // what comes before it
	err       error    // why src gave no more; sticky
	// pos <= end <= inSize; buf[pos:end] is unread. The word before pos stay
	// valid over a fill, so that a decoder can put back a bit buffer's worth.
	pos, end int
	off      int64                  // offset of buf[end] in the source
	buf      [inSize + wordLen]byte // a word more: it can be loaded at any masked position
}

// NewInput returns an Input that reads src.
func NewInput(src io.Reader) *Input { return &Input{src: src} }

// Reset makes in read src.
func (in *Input) Reset(src io.Reader) { in.ResetAt(src, 0) }

// ResetAt makes in read src, whose first byte is the one at off of the source that
// Offset counts in.
func (in *Input) ResetAt(src io.Reader, off int64) {
	in.src, in.prepended, in.err, in.pos, in.end, in.off = src, nil, nil, 0, 0, off
}

// Rest returns a copy of what has been read and not used.
func (in *Input) Rest() []byte { return bytes.Clone(in.buf[in.pos:in.end]) }

// Prepend gives back what was read: in is at the first of the pieces again. They
// are not copied.
func (in *Input) Prepend(pieces ...[]byte) {
	in.prepended = slices.Concat(pieces, [][]byte{in.Rest()}, in.prepended)
	in.prepended = slices.DeleteFunc(in.prepended, func(p []byte) bool { return len(p) == 0 })
	in.off = in.Offset()
	for _, p := range pieces {
		in.off -= int64(len(p))
	}
	in.pos, in.end = 0, 0
}

// Offset is the number of bytes of the source that have been used.
func (in *Input) Offset() int64 { return in.off - int64(in.end-in.pos) }

// Err is the error of the source, io.EOF at its end; nil while neither was met, or
// when something was given back and comes before it.
func (in *Input) Err() error {
	if len(in.prepended) > 0 {
		return nil
	}
	return in.err
}

// fill reads more of the source; false when there is no more, see Err.
func (in *Input) fill() bool {
	if keep := min(in.pos, wordLen); in.pos > keep {
		in.end = copy(in.buf[:], in.buf[in.pos-keep:in.end])
		in.pos = keep
	}
	for len(in.prepended) > 0 {
		n := copy(in.buf[in.end:inSize], in.prepended[0])
		in.end += n
		in.off += int64(n)
		if in.prepended[0] = in.prepended[0][n:]; len(in.prepended[0]) == 0 {
			in.prepended = in.prepended[1:]
		}
		if n > 0 {
			return true
		}
	}
	if in.err != nil {
		return false
	}
	for range maxEmptyReads {
		n, err := in.src.Read(in.buf[in.end:inSize])
		in.end += n
		in.off += int64(n)
		in.err = err
		if n > 0 || err != nil {
			return n > 0
		}
	}
	in.err = io.ErrNoProgress
	return false
}

// Peek returns the next n bytes, at most 4096, without using them; fewer only at
// the end of the source. They are valid until the next call.
func (in *Input) Peek(n int) []byte {
	for in.end-in.pos < n && in.fill() {
	}
	return in.buf[in.pos:min(in.pos+n, in.end)]
}

// Skip uses n bytes that were peeked.
func (in *Input) Skip(n int) { in.pos += n }

// ReadByte is io.ByteReader.
func (in *Input) ReadByte() (byte, error) {
	if in.pos == in.end && !in.fill() {
		return 0, in.err
	}
	c := in.buf[in.pos]
	in.pos++
	return c, nil
}

// Read is io.Reader.
func (in *Input) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if in.pos == in.end {
		if len(p) >= inSize && len(in.prepended) == 0 && in.err == nil { // nothing to hold, nothing to copy
			n, err := in.src.Read(p)
			in.off += int64(n)
			in.err = err
			return n, err
		}
		if !in.fill() {
			return 0, in.err
		}
	}
	n := copy(p, in.buf[in.pos:in.end])
	in.pos += n
	return n, nil
}

// load64 needs no bounds check: i is masked and buf is padded by a word.
func (in *Input) load64(i int) uint64 {
	i &= inMask
	return binary.LittleEndian.Uint64(in.buf[i : i+wordLen])
}
