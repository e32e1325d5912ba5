package inflate

import (
	"errors"
	"fmt"
	"io"
	"math"

	"github.com/klauspost/compress/zstd"

	"github.com/penstock/penstock/soci/internal/inflate/flate"
	"github.com/penstock/penstock/soci/internal/inflate/index"
)

// newZstdReader returns the reader of a zstd blob. in must be at the start of a
// frame, and out is the number of bytes of output before that frame.
func newZstdReader(in *flate.Input, out int64, opts Options) (*Reader, error) {
	if n := opts.workers(); n > 1 {
		f := newFrames(in, opts, n)
		f.sent = out
		return &Reader{Reader: f, format: Zstd, close: f.close}, nil
	}
	s, err := newSerial(in, opts, out)
	if err != nil {
		return nil, err
	}
	return &Reader{Reader: s, format: Zstd, close: s.close}, nil
}

// ErrWindow is the error of a zstd frame whose window exceeds
// Options.MaxWindow.
var ErrWindow = errors.New("zstd window too large")

func newZstd(in io.Reader, window int64, more ...zstd.DOption) (*zstd.Decoder, error) {
	// The decoder starts no goroutines, because the caller already has one for
	// it, and because this bounds the memory.
	return zstd.NewReader(in, append(more, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(uint64(window)))...) //nolint:gosec // G115: positive
}

// windowOf returns the window that a frame needs, in bytes. For a frame of a
// single segment that is its whole content (RFC 8878, section 3.1.1.1.2).
func windowOf(h *zstd.Header) uint64 {
	if h.SingleSegment {
		return h.FrameContentSize
	}
	return h.WindowSize
}

const (
	// recordEvery is the least distance between two frames that a serial
	// decoder records. Recording a frame costs a reset of the decoder.
	recordEvery = 256 << 10 // compressed bytes
	// leastWindow is the least window for which a decoder is made, so that
	// frames with different small windows share one decoder.
	leastWindow = 1 << 20
)

// serialZstd decodes a zstd blob on the goroutine that reads, and records the
// start of frames.
//
// The memory of a window is reserved before the decoder reads the frame. The
// decoder is made for the reserved size, and is replaced between two frames
// when the next one needs more. Its memory is released before more is reserved,
// so that two blobs never wait for each other.
type serialZstd struct {
	in      *flate.Input
	dec     *zstd.Decoder // nil after a failure
	scan    *frameScan
	rec     *index.Recorder // nil if nothing is recorded
	out     int64           // bytes of output so far
	most    int64           // Options.MaxWindow
	reserve func(int64) (func(), error)
	release func() // returns the reserved memory
	err     error
}

func newSerial(in *flate.Input, opts Options, out int64) (*serialZstd, error) {
	s := &serialZstd{in: in, rec: opts.Record, out: out, most: opts.MaxWindow, reserve: opts.Reserve, release: func() {}}
	s.scan = &frameScan{in: in, every: recordEvery}
	if s.rec == nil {
		s.scan.every = math.MaxInt64
	}
	if s.reserve == nil {
		s.reserve = func(int64) (func(), error) { return func() {}, nil }
	}
	if err := s.nextFrame(); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// nextFrame prepares the decoder for the next frame.
func (s *serialZstd) nextFrame() error {
	if s.rec != nil {
		s.rec.Member(s.in.Offset(), s.out, 0)
	}
	want := s.scan.window()
	if want > uint64(s.most) { //nolint:gosec // G115: positive
		return fmt.Errorf("%w: a frame wants %d MiB, at most %d MiB are allowed", ErrWindow, want>>20, s.most>>20)
	}
	if s.dec != nil && int64(want) <= s.scan.fits { //nolint:gosec // G115: at most s.most
		s.scan.resume()
		return classify(s.in, s.dec.Reset(s.scan))
	}
	s.close()
	var err error
	fits := max(leastWindow, int64(want)) //nolint:gosec // G115: as above
	if s.release, err = s.reserve(fits); err != nil {
		s.release = func() {}
		return err
	}
	s.scan.fits = fits
	s.scan.resume()
	s.dec, err = newZstd(s.scan, fits, zstd.WithDecoderMaxMemory(uint64(fits))) //nolint:gosec // G115: positive
	return classify(s.in, err)
}

// close frees the decoder and then its reserved memory.
func (s *serialZstd) close() {
	if s.dec != nil {
		s.dec.Close()
		s.dec = nil
	}
	s.release()
	s.release = func() {}
}

// Read implements io.Reader.
func (s *serialZstd) Read(p []byte) (int, error) {
	for s.err == nil {
		n, err := s.dec.Read(p)
		s.out += int64(n)
		switch {
		case err != io.EOF || !s.scan.paused:
			return n, classify(s.in, err)
		case n > 0:
			return n, nil
		case len(s.in.Peek(1)) == 0: // the decoder has returned the output of all frames
			return 0, s.in.Err()
		}
		s.err = s.nextFrame()
	}
	return 0, s.err
}

// frameScan is the source of a zstd decoder. At the end of some frames it
// returns io.EOF, so that the decoder outputs all earlier bytes and the size of
// the output before the next frame is known.
type frameScan struct {
	in     *flate.Input
	next   func() // parses the header at the current position
	left   int64  // bytes to pass through before next is called
	sum    bool   // the frame has a checksum
	from   int64  // offset at which resume was called last
	fits   int64  // largest window of the decoder
	every  int64  // least compressed bytes between resume and the next pause
	paused bool   // Read returns io.EOF until resume
	lost   bool   // no frame follows; the decoder reads the rest and reports the error
}

// window returns the window of the next frame, or 0 if no frame follows.
func (s *frameScan) window() uint64 {
	var h zstd.Header
	if h.Decode(s.in.Peek(zstd.HeaderMaxSize)) != nil || h.Skippable {
		return 0
	}
	return windowOf(&h)
}

// resume ends a pause and continues with the next frame.
func (s *frameScan) resume() {
	s.paused, s.from = false, s.in.Offset()
	s.startFrame()
}

// Read implements io.Reader.
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

// startFrame reads the header of a frame.
func (s *frameScan) startFrame() {
	var h zstd.Header
	if s.lost = h.Decode(s.in.Peek(zstd.HeaderMaxSize)) != nil; s.lost {
		return
	}
	s.left, s.next, s.sum = int64(h.HeaderSize), s.startBlock, h.HasCheckSum
	if h.Skippable {
		s.left, s.next = s.left+int64(h.SkippableSize), s.endFrame
	}
}

// startBlock reads the header of a block.
func (s *frameScan) startBlock() {
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
		s.next = s.endFrame
		if s.sum {
			s.left += 4
		}
	}
}

// endFrame pauses at the end of a frame if the next frame should be recorded or
// needs a larger window, or at the end of the source. Otherwise it starts the
// next frame.
func (s *frameScan) endFrame() {
	if s.in.Offset()-s.from >= s.every || len(s.in.Peek(1)) == 0 || s.window() > uint64(s.fits) { //nolint:gosec // G115: positive
		s.paused = true
		return
	}
	s.startFrame()
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
