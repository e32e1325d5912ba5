package inflate

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/penstock/penstock/soci/internal/inflate/flate"
	"github.com/penstock/penstock/soci/internal/inflate/index"
	"github.com/penstock/penstock/soci/internal/panics"
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
	// Reserve, unless nil, is asked for the memory of a zstd frame's history before the
	// frame is decoded, and may wait. release gives it back. Workers decode frames that are
	// whole in their own memory, for which it is not asked.
	Reserve func(n int64) (release func(), err error)

	// Workers is how many goroutines may decode a blob, beside the one that reads. 0
	// and 1 mean none: the goroutine that reads decodes. They are started when there is
	// enough for them to do, and hold at most [WorkerMemory] each. A zstd blob of one
	// frame is not for them.
	Workers int

	// Memory bounds what the workers may hold in all, in bytes: there are no more
	// than it has room for, and none if that is only one. 0 means no bound.
	Memory int64

	// Index says where the blob may be decoded from; with Workers it is then decoded
	// in spans, by all of them. It is a hint: a wrong one costs time only. Nil: none.
	Index *index.Index

	// Record, unless nil, is told where a gzip or zstd blob may be decoded from, in whatever
	// way it is decoded: members, blocks, and, as if they were members, frames.
	Record *index.Recorder
}

// WorkerMemory is what a worker of a Reader holds at most, in bytes: compressed input,
// its decoder, and output that it is ahead with.
const WorkerMemory = 16 << 20

// workers returns how many there are to be.
func (o Options) workers() int {
	n := o.Workers
	if o.Memory > 0 {
		n = int(min(int64(n), o.Memory/WorkerMemory))
	}
	return max(1, n)
}

const defaultWindow = 128 << 20

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
	in := flate.NewInput(src)
	head := in.Peek(4)
	if err := in.Err(); err != nil && err != io.EOF && len(head) < 4 {
		return nil, err
	}
	switch sniff(head) {
	case Gzip:
		return newGzip(in, 0, opts)
	case Zstd:
		return newZstdReader(in, 0, opts)
	default:
		return &Reader{Reader: in, format: None, close: func() {}}, nil
	}
}

func newGzip(in *flate.Input, out int64, opts Options) (*Reader, error) {
	m, err := newMembers(in, opts.workers())
	if err != nil {
		return nil, err
	}
	m.out = out
	m.applyOptions(opts)
	return &Reader{Reader: m, format: Gzip, close: m.close}, nil
}

// Resume returns a reader of what comes behind a point of a blob that was recorded
// before: src begins with the byte that the point is in.
// A member that is entered in the middle is not compared with its checksum: whoever goes
// on has a digest of the whole. An Index is not used; what is recorded begins with the
// point.
func Resume(src io.Reader, format Format, at index.Point, opts Options) (*Reader, error) {
	in := flate.NewInput(nil)
	in.ResetAt(src, at.Bits/8)
	if rec := opts.Record; rec != nil {
		rec.Add(at)
	}
	opts.Index = nil
	if opts.MaxWindow <= 0 {
		opts.MaxWindow = defaultWindow
	}
	switch {
	case format == None:
		return &Reader{Reader: in, format: None, close: func() {}}, nil
	case format == Zstd && at.Kind == index.Member:
		return newZstdReader(in, at.Out, opts)
	case format != Gzip:
		return nil, fmt.Errorf("a blob in %v can not be gone on with inside a frame: %w", format, errors.ErrUnsupported)
	case at.Kind == index.Member:
		return newGzip(in, at.Out, opts)
	}
	m := newMembersAt(in, opts.workers())
	m.memberStart, m.out, m.midMember = in.Offset(), at.Out, true
	m.lastCheck = progress{m.memberStart, m.out}
	m.dec = flate.NewDecoder(in)
	m.dec.ResetAt(in, uint(at.Bits%8), at.Window.Append(nil)) //nolint:gosec // G115: 0 to 7
	m.rec = opts.Record
	m.recordBlocks()
	return &Reader{Reader: m, format: Gzip, close: m.close}, nil
}

// Format returns what the first bytes said.
func (r *Reader) Format() Format { return r.format }

// Close frees what the decoder holds and returns when its goroutines have ended. It
// does not close the source.
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

// judge turns a decoder's error into the source's, if that failed, or into ErrCorrupt.
func classify(in *flate.Input, err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	if src := in.Err(); src != nil && src != io.EOF {
		return src
	}
	if errors.Is(err, panics.Err) {
		return err
	}
	if src, ok := err.(sourceError); ok { //nolint:errorlint // decode returns it bare
		return src.error
	}
	return fmt.Errorf("%w: %w", ErrCorrupt, err)
}
