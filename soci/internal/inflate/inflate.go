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

// ErrCorrupt is the error of damaged compressed data.
var ErrCorrupt = errors.New("corrupt compressed data")

// Format is a compression format.
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
	// MaxWindow bounds the window, and so the memory, of a zstd frame, in
	// bytes. 0 means 128 MiB, the default of the zstd tool.
	MaxWindow int64
	// Reserve, unless nil, is called for the memory of a zstd frame's window
	// before the frame is decoded, and may wait. release returns the memory.
	// Reserve is not called for frames that workers decode whole, because they
	// use the workers' own memory.
	Reserve func(n int64) (release func(), err error)

	// Workers is the number of goroutines that may decode a blob, in addition
	// to the goroutine that reads. With 0 or 1, the goroutine that reads also
	// decodes. Workers start once there is enough work, and hold at most
	// [WorkerMemory] each. They never decode a zstd blob of one frame.
	Workers int

	// Memory bounds the memory of all workers together, in bytes. It lowers the
	// number of workers to as many as fit; if fewer than two fit, there are
	// none. 0 means no bound.
	Memory int64

	// Index, unless nil, lists the positions where decoding can start. Workers
	// then decode the spans between them. A wrong index costs only time and
	// never changes the output.
	Index *index.Index

	// Record, unless nil, collects positions where the decoding of a gzip or
	// zstd blob can start: members, blocks, and frames, which are recorded as
	// members.
	Record *index.Recorder
}

// WorkerMemory bounds the memory of one worker of a Reader, in bytes: its
// decoder, compressed input, and output that was not read yet.
const WorkerMemory = 16 << 20

// workers returns the number of workers that Workers and Memory allow, at least
// 1.
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

// NewReader detects the format of src and returns a reader of its decompressed
// bytes.
func NewReader(src io.Reader, opts Options) (*Reader, error) {
	if opts.MaxWindow <= 0 {
		opts.MaxWindow = defaultWindow
	}
	in := flate.NewInput(src)
	head := in.Peek(4)
	if err := in.Err(); err != nil && err != io.EOF && len(head) < 4 {
		return nil, err
	}
	switch detectFormat(head) {
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

// Resume returns a reader of the output that follows a recorded point of a
// blob. src starts with the byte that contains the point. Resume does not check
// the checksum of a member that it resumes in the middle, so the caller must
// verify a digest of the whole output. Resume ignores Options.Index, and adds
// at to Options.Record as the first point.
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
		return nil, fmt.Errorf("a %v blob cannot be resumed inside a frame: %w", format, errors.ErrUnsupported)
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

// Format returns the format that NewReader detected.
func (r *Reader) Format() Format { return r.format }

// Close releases the memory of the decoder and waits for its goroutines to end.
// It does not close the source.
func (r *Reader) Close() { r.close() }

// detectFormat detects the format by its magic number (RFC 1952, RFC 8878).
func detectFormat(head []byte) Format {
	if bytes.HasPrefix(head, []byte{0x1f, 0x8b}) {
		return Gzip
	}
	if len(head) == 4 {
		m := binary.LittleEndian.Uint32(head)
		// The second pattern is a skippable frame, which pzstd writes first.
		if m == 0xfd2fb528 || m&0xfffffff0 == 0x184d2a50 {
			return Zstd
		}
	}
	return None
}

// classify returns the error of the source if the source failed. Otherwise it
// wraps the decoder's error in ErrCorrupt, except io.EOF and panics, which it
// returns unchanged.
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
