package flate

import (
	"bytes"
	"encoding/binary"
	"io"
	"slices"
)

const (
	// inSize is the number of compressed bytes that are buffered. It is large
	// enough that the cost of reading the source and moving the remainder is
	// negligible, and small enough for the first two cache levels. It is a
	// power of two, so that positions can be masked.
	inSize = 64 << 10
	inMask = inSize - 1

	// maxEmptyReads is the number of consecutive reads without data or error
	// after which the source is considered broken, as in bufio.
	maxEmptyReads = 100
)

// Input is a buffered source of compressed bytes. At the end of a stream a
// decoder gives back the bytes that it read ahead, so that the position of its
// Input is the end of the stream.
type Input struct {
	src       io.Reader
	prepended [][]byte // read before src
	err       error    // the error that ended src; sticky
	// pos <= end <= inSize; buf[pos:end] is unread. fill keeps the word before
	// pos, so that a decoder can return the bytes of its bit buffer.
	pos, end int
	off      int64                  // offset of buf[end] in the source
	buf      [inSize + wordLen]byte // padded by a word, which can be loaded at any masked position
}

// NewInput returns an Input that reads src.
func NewInput(src io.Reader) *Input { return &Input{src: src} }

// Reset makes in read src.
func (in *Input) Reset(src io.Reader) { in.ResetAt(src, 0) }

// ResetAt makes in read src, whose first byte has offset off.
func (in *Input) ResetAt(src io.Reader, off int64) {
	in.src, in.prepended, in.err, in.pos, in.end, in.off = src, nil, nil, 0, 0, off
}

// Rest returns a copy of the buffered bytes.
func (in *Input) Rest() []byte { return bytes.Clone(in.buf[in.pos:in.end]) }

// Prepend gives bytes that were read from in back to it, so that the next byte
// read is the first byte of pieces. It does not copy pieces.
func (in *Input) Prepend(pieces ...[]byte) {
	in.prepended = slices.Concat(pieces, [][]byte{in.Rest()}, in.prepended)
	in.prepended = slices.DeleteFunc(in.prepended, func(p []byte) bool { return len(p) == 0 })
	in.off = in.Offset()
	for _, p := range pieces {
		in.off -= int64(len(p))
	}
	in.pos, in.end = 0, 0
}

// Offset returns the number of bytes of the source that were consumed.
func (in *Input) Offset() int64 { return in.off - int64(in.end-in.pos) }

// Err returns the error of the source, or io.EOF at its end. It returns nil
// while the source has neither ended nor failed, and while prepended bytes are
// left.
func (in *Input) Err() error {
	if len(in.prepended) > 0 {
		return nil
	}
	return in.err
}

// fill reads from the source. It returns false if the source has ended or
// failed, see Err.
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

// Peek returns the next n bytes, at most 4096, without consuming them, or fewer
// at the end of the source. They are valid until the next call.
func (in *Input) Peek(n int) []byte {
	for in.end-in.pos < n && in.fill() {
	}
	return in.buf[in.pos:min(in.pos+n, in.end)]
}

// Skip consumes n bytes that Peek returned.
func (in *Input) Skip(n int) { in.pos += n }

// ReadByte implements io.ByteReader.
func (in *Input) ReadByte() (byte, error) {
	if in.pos == in.end && !in.fill() {
		return 0, in.err
	}
	c := in.buf[in.pos]
	in.pos++
	return c, nil
}

// Read implements io.Reader.
func (in *Input) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if in.pos == in.end {
		if len(p) >= inSize && len(in.prepended) == 0 && in.err == nil { // read directly into p
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

// load64 loads the word at buf[i]. The compiler omits the bounds check, because
// i is masked and buf is padded by a word.
func (in *Input) load64(i int) uint64 {
	i &= inMask
	return binary.LittleEndian.Uint64(in.buf[i : i+wordLen])
}
