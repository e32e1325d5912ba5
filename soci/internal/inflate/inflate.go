package inflate

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// ErrCorrupt: the compressed bytes are damaged.
var ErrCorrupt = errors.New("corrupt compressed data")

// Format is how a blob is compressed.
type Format int

// The formats of layers.
const (
	None Format = iota // a plain tar
	Gzip
	Zstd
)

func (f Format) String() string {
	switch f {
	case Gzip:
		return "gzip"
	case Zstd:
		return "zstd"
	default:
		return "none"
	}
}

// Options configure a Reader. The zero value works.
type Options struct {
	// MaxWindow bounds the history, and so the memory, that a zstd frame may ask
	// for. 0 means 128 MiB, what the zstd tool accepts without being told.
	MaxWindow int64
}

const defaultWindow = 128 << 20

// inputBuffer is how much compressed data is copied at a time: large enough that
// the copy is noise beside inflate, and the type (bufio.Reader) is the one for
// which flate has a specialised loop.
const inputBuffer = 64 << 10

// Reader yields the uncompressed bytes of a blob.
type Reader struct {
	io.Reader
	format Format
	close  func()
}

// NewReader looks at the first bytes of src and returns their reader.
func NewReader(src io.Reader, opts Options) (*Reader, error) {
	if opts.MaxWindow <= 0 {
		opts.MaxWindow = defaultWindow
	}
	tap := &sourceErr{r: src}
	in := bufio.NewReaderSize(tap, inputBuffer)
	head, err := in.Peek(4)
	if err != nil && err != io.EOF {
		return nil, err
	}
	switch sniff(head) {
	case Gzip:
		z := &members{in: in, tap: tap}
		if err := z.open(); err != nil {
			return nil, err
		}
		return &Reader{Reader: z, format: Gzip, close: func() {}}, nil
	case Zstd:
		// Synchronous: the caller has a goroutine for this, and memory stays bounded.
		d, err := zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
			zstd.WithDecoderMaxWindow(uint64(opts.MaxWindow)))
		if err != nil {
			return nil, tap.judge(err)
		}
		return &Reader{Reader: judged{d, tap}, format: Zstd, close: d.Close}, nil
	default:
		return &Reader{Reader: in, format: None, close: func() {}}, nil
	}
}

// Format returns what the first bytes said.
func (r *Reader) Format() Format { return r.format }

// Close frees what the decoder holds. It does not close the source.
func (r *Reader) Close() { r.close() }

// sniff tells the format by its magic number (RFC 1952, RFC 8878).
func sniff(head []byte) Format {
	if bytes.HasPrefix(head, []byte{0x1f, 0x8b}) {
		return Gzip
	}
	if len(head) == 4 {
		m := binary.LittleEndian.Uint32(head)
		// A blob may begin with a skippable frame (zstd:chunked does not, pzstd does).
		if m == 0xfd2fb528 || m&0xfffffff0 == 0x184d2a50 {
			return Zstd
		}
	}
	return None
}

// sourceErr remembers a failure of the source, to tell it from damage.
type sourceErr struct {
	r   io.Reader
	err error
}

func (s *sourceErr) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}

// judge turns a decoder's error into the source's, or into ErrCorrupt.
func (s *sourceErr) judge(err error) error {
	switch {
	case err == nil, err == io.EOF:
		return err
	case s.err != nil:
		return s.err
	}
	return fmt.Errorf("%w: %w", ErrCorrupt, err)
}

type judged struct {
	r   io.Reader
	tap *sourceErr
}

func (j judged) Read(p []byte) (int, error) {
	n, err := j.r.Read(p)
	return n, j.tap.judge(err)
}

// members reads gzip members one after the other. gzip.Reader could do so itself,
// but takes zero padding, which tape tools and some registries' proxies leave,
// for a broken header.
type members struct {
	in  *bufio.Reader
	tap *sourceErr
	z   *gzip.Reader
}

func (m *members) open() (err error) {
	if m.z == nil {
		m.z, err = gzip.NewReader(m.in)
	} else {
		err = m.z.Reset(m.in)
	}
	if err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return m.tap.judge(err)
	}
	m.z.Multistream(false)
	return nil
}

func (m *members) Read(p []byte) (int, error) {
	for {
		n, err := m.z.Read(p)
		if n > 0 && err == io.EOF {
			return n, nil // the end of the member is seen by the next call
		}
		if n > 0 || err != io.EOF {
			return n, m.tap.judge(err)
		}
		if err := m.next(); err != nil {
			return 0, err
		}
	}
}

// next goes on to the member after a finished one; io.EOF when there is none.
func (m *members) next() error {
	padding := false
	for {
		head, err := m.in.Peek(2)
		switch {
		case err != nil && err != io.EOF:
			return err
		case len(head) == 0:
			return io.EOF
		case head[0] == 0:
			padding = true
			_, _ = m.in.Discard(1) // it was just peeked
			continue
		case !padding && sniff(head) == Gzip:
			return m.open()
		}
		return fmt.Errorf("%w: %d or more bytes that are no gzip member after the last one", ErrCorrupt, len(head))
	}
}
