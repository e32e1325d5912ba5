package flate

import (
	"errors"
	"io"
	"math"
)

var (
	// ErrCorrupt is the error of an invalid DEFLATE stream.
	ErrCorrupt = errors.New("flate: corrupt input")

	// ErrStopped is returned before a block that starts at or after the limit
	// of StopAt.
	ErrStopped = errors.New("flate: stopped before a block")
)

// Decoder decodes one DEFLATE stream at a time.
type Decoder struct {
	in   *Input
	bb   uint64 // unused bits, the next one lowest; zero above nb
	nb   uint   // number of bits in bb
	rp   int    // win[rp:op] is decoded but not returned yet
	op   int    // rp <= op < winSize; win[op-history:op] is kept until the stream ends
	base int64  // output offset of win[0]
	err  error  // sticky: io.EOF after the last block, ErrStopped until StopAt
	stop int64  // the limit set by StopAt, in bits of the source

	state   int
	final   bool // the block is the last one
	stored  int  // remaining bytes of the stored block
	watcher func(Mark)

	fixed     bool // the tables are for the fixed code
	plain     bool // few matches are expected, see plainCode
	lit, dist code
	litTab    [litSize]uint32
	distTab   [distSize]uint32
	litSym    [litSyms]uint32
	distSym   [distSyms]uint32
	win       *Window
}

// The states of a Decoder.
const (
	atHeader = iota
	inStored
	inCodes
)

// NewDecoder returns a Decoder of the stream at the position of in.
func NewDecoder(in *Input) *Decoder {
	d := &Decoder{litSym: litSymbols(), distSym: distSymbols(), win: new(Window)}
	d.Reset(in)
	return d
}

// Reset makes d decode the stream at the position of in.
func (d *Decoder) Reset(in *Input) { d.ResetAt(in, 0, nil) }

// ResetAt makes d decode from the middle of a stream. A block starts skip bits,
// at most 7, after the position of in. past is the output before it; only the
// last 32 KiB are used.
func (d *Decoder) ResetAt(in *Input, skip uint, past []byte) {
	past = past[max(0, len(past)-history):]
	n := copy(d.win[:history], past)
	d.in, d.rp, d.op, d.base = in, n, n, -int64(n)
	d.start(skip)
}

// start makes d expect a block skip bits after the position of its input.
func (d *Decoder) start(skip uint) {
	d.bb, d.nb, d.stop = 0, 0, math.MaxInt64
	d.state, d.final = atHeader, false
	if d.err = d.needBits(skip); d.err == nil {
		d.takeBits(skip)
	}
}

// Switch makes d continue with in, which must be at the position of its current
// Input.
func (d *Decoder) Switch(in *Input) {
	d.putBack()
	d.in = in
}

// StopAt makes Next return ErrStopped before the first block that starts at or
// after a limit, in bits of the source of the Input. It may be called at any
// time; after ErrStopped, a later limit makes Next continue. Reset removes the
// limit.
func (d *Decoder) StopAt(bits int64) {
	d.stop = bits
	if errors.Is(d.err, ErrStopped) {
		d.err = nil
	}
}

// Bits returns the number of decoded bits of the source of the Input.
func (d *Decoder) Bits() int64 {
	return d.in.Offset()*8 - int64(d.nb) //nolint:gosec // G115: at most 64
}

// History returns the last decoded output, at most 32 KiB, valid until the next
// call.
func (d *Decoder) History() []byte { return d.win[max(0, d.op-history):d.op] }

// Pending returns the number of bytes that Next would return without decoding.
func (d *Decoder) Pending() int { return d.op - d.rp }

// Mark is the start of a block.
type Mark struct {
	Bits    int64  // bits of the source before it
	Out     int64  // bytes of output before it, since the Decoder was reset
	History []byte // the last output before it, at most 32 KiB; valid during the call
}

// Watch makes d call f, unless it is nil, at the start of each further block.
func (d *Decoder) Watch(f func(Mark)) { d.watcher = f }

// Next returns decoded bytes, valid until the next call. After the last byte it
// returns io.EOF, and the position of the Input is the end of the stream.
func (d *Decoder) Next() ([]byte, error) {
	if d.rp == d.op && d.err == nil {
		d.fillWindow()
	}
	if d.rp == d.op {
		return nil, d.err
	}
	p := d.win[d.rp:d.op]
	d.rp = d.op
	return p, nil
}

// NextIn is like Next, but the caller may keep the bytes, and long output is
// not copied. p lies in the Window held, which belongs to the caller. d either
// copies p to w and returns w as held, or keeps w and returns its own window.
// It overwrites the content of w in both cases.
func (d *Decoder) NextIn(w *Window) (p []byte, held *Window, err error) {
	if p, err = d.Next(); len(p) <= history { // copying p is cheaper than moving the history
		return w[:copy(w[:], p)], w, err
	}
	held = d.win
	n := copy(w[:history], held[d.op-history:d.op])
	d.base += int64(d.op - n)
	d.win, d.op, d.rp = w, n, n
	return p, held, err
}

// Read implements io.Reader.
func (d *Decoder) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if d.rp == d.op && d.err == nil {
		d.fillWindow()
	}
	if d.rp == d.op {
		return 0, d.err
	}
	n := copy(p, d.win[d.rp:d.op])
	d.rp += n
	return n, nil
}

// fillWindow decodes until the window is full or err is set. It must be called
// only when all earlier output was returned.
func (d *Decoder) fillWindow() {
	if d.op >= winLimit {
		n := copy(d.win[:history], d.win[d.op-history:d.op])
		d.base += int64(d.op - n)
		d.op, d.rp = n, n
	}
	for d.err == nil && d.op < winLimit {
		switch d.state {
		case atHeader:
			d.err = d.startBlock()
		case inStored:
			d.err = d.copyStored()
		default:
			d.fast()
			if d.err == nil && d.state == inCodes {
				d.err = d.slow()
			}
		}
		d.checkEnd()
	}
}

// checkEnd ends the stream after its last block.
func (d *Decoder) checkEnd() {
	if d.state == atHeader && d.final && d.err == nil {
		d.putBack()
		d.err = io.EOF
	}
}

// startBlock reads the header of a block, unless the limit of StopAt is
// reached.
func (d *Decoder) startBlock() error {
	if d.Bits() >= d.stop {
		return ErrStopped
	}
	if d.watcher != nil {
		d.watcher(Mark{Bits: d.Bits(), Out: d.base + int64(d.op), History: d.History()})
	}
	return d.header()
}

// putBack returns whole bytes of the bit buffer to the input.
func (d *Decoder) putBack() {
	d.in.pos -= int(d.nb >> 3)
	d.nb &= 7
	d.bb &= 1<<d.nb - 1
}

// sourceEnded returns the error for a source that ended or failed inside the
// stream.
func (d *Decoder) sourceEnded() error {
	if d.in.err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return d.in.err
}

// needBits fills the bit buffer to at least n bits, at most 57.
func (d *Decoder) needBits(n uint) error {
	in := d.in
	for d.nb < n {
		if in.pos == in.end && !in.fill() {
			return d.sourceEnded()
		}
		d.bb |= uint64(in.buf[in.pos]) << (d.nb & 63)
		in.pos++
		d.nb += 8
	}
	return nil
}

// takeBits consumes n bits of the bit buffer.
func (d *Decoder) takeBits(n uint) int {
	v := d.bb & (1<<n - 1)
	d.bb >>= n
	d.nb -= n
	return int(v) //nolint:gosec // G115: a few bits
}

// header reads the header of a block.
func (d *Decoder) header() error {
	if err := d.needBits(3); err != nil {
		return err
	}
	d.final = d.takeBits(1) == 1
	switch d.takeBits(2) {
	case 0:
		d.takeBits(d.nb & 7)
		if err := d.needBits(32); err != nil {
			return err
		}
		n, c := d.takeBits(16), d.takeBits(16)
		if n != c^0xffff {
			return ErrCorrupt
		}
		d.putBack()
		d.stored = n
		d.state = inStored
		return nil
	case 1:
		if !d.fixed {
			d.fixedCodes()
		}
	case 2:
		d.fixed = false
		if err := d.dynamicCodes(); err != nil {
			return err
		}
	default:
		return ErrCorrupt
	}
	d.state = inCodes
	return nil
}

// copyStored copies the available bytes of a stored block.
func (d *Decoder) copyStored() error {
	in := d.in
	for d.stored > 0 && d.op < winLimit {
		if in.pos == in.end && !in.fill() {
			return d.sourceEnded()
		}
		n := min(d.stored, winLimit-d.op, in.end-in.pos)
		copy(d.win[d.op:d.op+n], in.buf[in.pos:])
		in.pos += n
		d.op += n
		d.stored -= n
	}
	if d.stored == 0 {
		d.state = atHeader
	}
	return nil
}

// symbol decodes one symbol bit by bit. It reads no more input than
// compress/flate does.
func (d *Decoder) symbol(c *code) (int, error) {
	if err := d.needBits(uint(c.need)); err != nil {
		return 0, err
	}
	cw, first, index := 0, 0, 0
	for n := 1; n <= c.max; n++ {
		if err := d.needBits(uint(n)); err != nil {
			return 0, err
		}
		cw |= int(d.bb >> uint(n-1) & 1)
		k := int(c.count[n])
		if cw-k < first {
			d.takeBits(uint(n))
			return int(c.sorted[index+cw-first]), nil
		}
		index += k
		first = (first + k) << 1
		cw <<= 1
	}
	return 0, ErrCorrupt
}

// token decodes a literal (dist is 0 and n the byte), a match, or the end of
// the block (dist and n are 0, and state is atHeader).
func (d *Decoder) token() (n, dist int, err error) {
	s, err := d.symbol(&d.lit)
	switch {
	case err != nil:
		return 0, 0, err
	case s < endBlock:
		return s, 0, nil
	case s == endBlock:
		d.state = atHeader
		return 0, 0, nil
	case s >= maxLit:
		return 0, 0, ErrCorrupt
	}
	e := d.litSym[s]
	x := uint(e & 63)
	if err := d.needBits(x); err != nil {
		return 0, 0, err
	}
	n = int(e>>16) + d.takeBits(x)
	s, err = d.symbol(&d.dist)
	switch {
	case err != nil:
		return 0, 0, err
	case s >= maxDist:
		return 0, 0, ErrCorrupt
	}
	e = d.distSym[s]
	x = uint(e & 63)
	if err := d.needBits(x); err != nil {
		return 0, 0, err
	}
	return n, int(e>>16) + d.takeBits(x), nil
}

// slowTokens is the number of tokens that slow decodes bit by bit.
const slowTokens = 64

// slow decodes a few tokens bit by bit, where the input or the window is too
// short for the fast loop.
func (d *Decoder) slow() error {
	for range slowTokens {
		if d.op >= winLimit {
			return nil
		}
		n, dist, err := d.token()
		switch {
		case err != nil:
			return err
		case d.state != inCodes:
			return nil
		case dist == 0:
			d.win[d.op] = byte(n & 0xff)
			d.op++
			continue
		case dist > d.op:
			return ErrCorrupt
		}
		d.win.match(d.op, dist, n)
		d.op += n
	}
	return nil
}
