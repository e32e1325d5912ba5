package index

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"

	"github.com/penstock/penstock/soci/internal/inflate/flate"
)

const (
	magic    = "\x89PSidx\r\x01" // the last byte is the version
	lenBytes = 4

	// maxFile bounds the size of a file. The index of a layer of 1 TB, which is
	// 0.1 % of the layer, reaches it.
	maxFile = 1 << 30 // bytes
	// maxBody bounds the memory of a decompressed file.
	maxBody = 1 << 30 // bytes
	// frameWindow is the window of the zstd frame that Save writes. Similar
	// data is close together in a body, and an encoder with a small window
	// starts twice as fast.
	frameWindow = 64 << 10 // bytes
	// maxFrameWindow is the largest window of a zstd frame that Load accepts.
	maxFrameWindow = 2 << 20 // bytes
)

// Save writes the file of x.
func (x *Index) Save(w io.Writer) error {
	if err := x.Check(); err != nil {
		return err
	}
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithLowerEncoderMem(true), zstd.WithWindowSize(frameWindow))
	if err != nil {
		return err
	}
	defer func() { _ = enc.Close() }()
	body := x.body()
	file := make([]byte, len(magic)+lenBytes, len(magic)+lenBytes+enc.MaxEncodedSize(len(body))+sha256.Size)
	copy(file, magic)
	file = enc.EncodeAll(body, file)
	n := len(file) - len(magic) - lenBytes
	if n > maxFile {
		return fmt.Errorf("the index takes %d bytes, more than %d: record with a longer span", n, maxFile)
	}
	binary.LittleEndian.PutUint32(file[len(magic):], uint32(n)) //nolint:gosec // G115: bounded above
	sum := sha256.Sum256(file)
	_, err = w.Write(append(file, sum[:]...))
	return err
}

// bodySize estimates the size of the body, so that its buffer need not grow.
func (x *Index) bodySize() int {
	const fixed, run = 32, 3 // typical bytes of a point and of a run
	n := 2*maxDigest + fixed*len(x.Points)
	for _, p := range x.Points {
		n += run*len(p.Window.runs) + len(p.Window.data)
	}
	return n
}

// body returns the encoded body.
func (x *Index) body() []byte {
	b := make([]byte, 0, x.bodySize())
	num := func(v int64) { b = binary.AppendUvarint(b, uint64(v)) } //nolint:gosec // G115: checked to be positive
	text := func(s string) {
		s = s[:min(len(s), maxDigest)]
		num(int64(len(s)))
		b = append(b, s...)
	}
	text(x.Digest)
	text(x.DiffID)
	num(x.Size)
	num(x.Out)
	num(int64(len(x.Points)))
	var last Point
	for _, p := range x.Points {
		num(int64(p.Kind))
		num(p.Bits - last.Bits)
		num(p.Out - last.Out)
		last = p
		if p.Kind == Member {
			num(int64(p.Header))
			continue
		}
		num(int64(p.Window.n))
		num(int64(len(p.Window.runs)))
		for _, r := range p.Window.runs {
			num(int64(r.skip))
			num(int64(r.n))
		}
	}
	for _, p := range x.Points {
		b = append(b, p.Window.data...)
	}
	return b
}

// Load reads an index that Save wrote, up to the end of r.
func Load(r io.Reader) (*Index, error) { return LoadWithin(r, maxBody) }

// LoadWithin is Load for an index from an untrusted source. It refuses an index
// that takes more than most bytes in memory, however small its file is.
func LoadWithin(r io.Reader, most int64) (*Index, error) {
	head := make([]byte, len(magic)+lenBytes)
	if _, err := io.ReadFull(r, head); err != nil {
		return nil, cutShort(err)
	}
	if string(head[:len(magic)-1]) != magic[:len(magic)-1] {
		return nil, fmt.Errorf("%w: it does not start with the magic", ErrFormat)
	}
	if v := head[len(magic)-1]; v != magic[len(magic)-1] {
		return nil, fmt.Errorf("%w: version %d, expected %d: record it again", ErrFormat, v, magic[len(magic)-1])
	}
	n := int64(binary.LittleEndian.Uint32(head[len(magic):]))
	if n > maxFile {
		return nil, fmt.Errorf("%w: a body of %d bytes, at most %d are accepted", ErrFormat, n, maxFile)
	}
	// The buffer grows with the data, because the stated length may be wrong.
	var rest bytes.Buffer
	if _, err := io.CopyN(&rest, r, n+sha256.Size); err != nil {
		return nil, cutShort(err)
	}
	switch k, err := r.Read(make([]byte, 1)); {
	case k > 0:
		return nil, fmt.Errorf("%w: bytes follow its end", ErrFormat)
	case err != nil && !errors.Is(err, io.EOF):
		return nil, err
	}
	packed, want := rest.Bytes()[:n], rest.Bytes()[n:]
	sum := sha256.New()
	sum.Write(head)
	sum.Write(packed)
	if !bytes.Equal(sum.Sum(nil), want) {
		return nil, fmt.Errorf("%w: wrong checksum", ErrFormat)
	}
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(uint64(min(max(most, 1), maxBody))), zstd.WithDecoderMaxWindow(maxFrameWindow))
	if err != nil {
		return nil, err
	}
	defer dec.Close()
	body, err := dec.DecodeAll(packed, nil)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	return parse(body)
}

// cutShort returns ErrFormat if err says that the file ended too early, and
// else err.
func cutShort(err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return fmt.Errorf("%w: it ends too early", ErrFormat)
	}
	return err
}

// parser parses a body. After an error it sets bad, and its methods return
// zeros.
type parser struct {
	b   []byte
	bad bool
}

func (p *parser) num(most int64) int64 {
	v, n := binary.Uvarint(p.b)
	if n <= 0 || v > uint64(most) { //nolint:gosec // G115: a limit
		p.bad = true
		return 0
	}
	p.b = p.b[n:]
	return int64(v) //nolint:gosec // G115: bounded by most
}

func (p *parser) bytes(n int64) []byte {
	if p.bad || n > int64(len(p.b)) {
		p.bad = true
		return nil
	}
	v := p.b[:n:n]
	p.b = p.b[n:]
	return v
}

// parse parses a body.
func parse(b []byte) (*Index, error) {
	p := &parser{b: b}
	x := new(Index)
	x.Digest = string(p.bytes(p.num(maxDigest)))
	x.DiffID = string(p.bytes(p.num(maxDigest)))
	x.Size, x.Out = p.num(maxSize), p.num(maxSize)
	n := p.num(maxPoints)
	var last Point
	var runs []int64 // bytes of each window
	for i := int64(0); i < n && !p.bad; i++ {
		pt, kept := p.point(last)
		x.Points, runs = append(x.Points, pt), append(runs, kept)
		last = pt
	}
	for i, kept := range runs {
		if kept > 0 {
			x.Points[i].Window.data = p.bytes(kept)
		}
	}
	if p.bad || len(p.b) > 0 {
		return nil, fmt.Errorf("%w: its body is damaged", ErrFormat)
	}
	if err := x.Check(); err != nil {
		return nil, err
	}
	return x, nil
}

// point parses a point without the bytes of its window, and returns their
// number.
func (p *parser) point(last Point) (pt Point, kept int64) {
	pt.Kind = Kind(p.num(int64(Block))) //nolint:gosec // G115: bounded
	pt.Bits = last.Bits + p.num(maxSize*8)
	pt.Out = last.Out + p.num(maxSize)
	if pt.Bits < last.Bits || pt.Out < last.Out || pt.Bits > maxSize*8 {
		p.bad = true
		return pt, 0
	}
	if pt.Kind == Member {
		pt.Header = int(p.num(maxSize))
		return pt, 0
	}
	pt.Window.n = int(p.num(flate.History))
	n := p.num(flate.History)
	for i := int64(0); i < n && !p.bad; i++ {
		r := run{uint16(p.num(flate.History)), uint16(p.num(flate.History))} //nolint:gosec // G115: bounded
		pt.Window.runs = append(pt.Window.runs, r)
		kept += int64(r.n)
	}
	return pt, kept
}
