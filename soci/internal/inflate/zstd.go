package inflate

import (
	"io"

	"github.com/klauspost/compress/zstd"

	"github.com/penstock/penstock/soci/internal/inflate/flate"
	"github.com/penstock/penstock/soci/internal/inflate/index"
)

// newZstdReader returns the reader of a zstd blob that has out bytes of output before the
// place where in is: a frame begins there.
func newZstdReader(in *flate.Input, out int64, opts Options) (*Reader, error) {
	if n := opts.workers(); n > 1 {
		f := newFrames(in, opts.MaxWindow, n)
		f.rec, f.sent = opts.Record, out
		return &Reader{Reader: f, format: Zstd, close: f.close}, nil
	}
	s, err := newSerial(in, uint64(opts.MaxWindow), out, opts.Record) //nolint:gosec // G115: positive
	if err != nil {
		return nil, err
	}
	return &Reader{Reader: s, format: Zstd, close: s.dec.Close}, nil
}

func newZstd(in io.Reader, window uint64, more ...zstd.DOption) (*zstd.Decoder, error) {
	// Synchronous: the caller has a goroutine for this, and memory stays bounded.
	return zstd.NewReader(in, append(more, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(window))...)
}

// recordEvery is how much of a blob lies between two frames that a serial decoder tells a
// Recorder of: each costs it a reset.
const recordEvery = 256 << 10 // compressed bytes

// serial decodes a zstd blob on the goroutine that reads, and records where frames begin.
type serial struct {
	in   *flate.Input
	dec  *zstd.Decoder
	scan *frameScan // nil: nothing is recorded
	rec  *index.Recorder
	out  int64
}

func newSerial(in *flate.Input, window uint64, out int64, rec *index.Recorder) (*serial, error) {
	s := &serial{in: in, rec: rec, out: out}
	var src io.Reader = in
	if rec != nil {
		rec.Member(in.Offset(), out, 0)
		s.scan = &frameScan{in: in, every: recordEvery}
		s.scan.begin()
		src = s.scan
	}
	var err error
	s.dec, err = newZstd(src, window)
	return s, judge(in, err)
}

// Read is io.Reader.
func (s *serial) Read(p []byte) (int, error) {
	for {
		n, err := s.dec.Read(p)
		s.out += int64(n)
		if err != io.EOF || s.scan == nil || !s.scan.paused {
			return n, judge(s.in, err)
		}
		// It has made all that it can of the frames before.
		if len(s.in.Peek(1)) == 0 {
			return n, s.in.Err()
		}
		s.rec.Member(s.in.Offset(), s.out, 0)
		s.scan.begin()
		if err := s.dec.Reset(s.scan); err != nil {
			return n, judge(s.in, err)
		}
		if n > 0 {
			return n, nil
		}
	}
}

// frameScan is the frames of a blob as a decoder reads them. Behind a frame it ends, now and
// then, so that the output of what is before is known.
type frameScan struct {
	in     *flate.Input
	next   func()
	left   int64 // bytes up to the next call of next
	sum    bool  // the frame has a checksum
	from   int64 // offset where it last began
	every  int64 // compressed bytes from there on before it ends
	paused bool  // it has ended behind a frame
	lost   bool  // what follows is no frame: the decoder says what is wrong with it
}

// begin goes on with the next frame.
func (s *frameScan) begin() {
	s.paused, s.from = false, s.in.Offset()
	s.header()
}

// Read is io.Reader.
func (s *frameScan) Read(p []byte) (int, error) {
	for s.left == 0 && !s.paused && !s.lost {
		s.next()
	}
	switch {
	case s.paused:
		return 0, io.EOF
	case s.lost:
		return s.in.Read(p)
	}
	n, err := s.in.Read(p[:min(int64(len(p)), s.left)])
	s.left -= int64(n)
	return n, err
}

// header is where a frame begins.
func (s *frameScan) header() {
	var h zstd.Header
	if s.lost = h.Decode(s.in.Peek(zstd.HeaderMaxSize)) != nil; s.lost {
		return
	}
	s.left, s.next, s.sum = int64(h.HeaderSize), s.block, h.HasCheckSum
	if h.Skippable {
		s.left, s.next = s.left+int64(h.SkippableSize), s.end
	}
}

// block is where one begins.
func (s *frameScan) block() {
	b := s.in.Peek(blockHeader)
	if s.lost = len(b) < blockHeader; s.lost {
		return
	}
	last, kind, size := parseBlock(b)
	if kind == blockRepeated {
		size = 1
	}
	s.left = blockHeader + int64(size)
	if last {
		s.next = s.end
		if s.sum {
			s.left += 4
		}
	}
}

// end is behind a frame.
func (s *frameScan) end() {
	if s.in.Offset()-s.from >= s.every || len(s.in.Peek(1)) == 0 {
		s.paused = true
		return
	}
	s.header()
}

// The header of a block (RFC 8878, section 3.1.1.2).
const (
	blockHeader     = 3 // bytes
	blockRaw        = 0
	blockRepeated   = 1 // one byte
	blockCompressed = 2
)

func parseBlock(b []byte) (last bool, kind, size int) {
	v := int(b[0]) | int(b[1])<<8 | int(b[2])<<16
	return v&1 != 0, v >> 1 & 3, v >> 3
}
