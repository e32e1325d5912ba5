package flate

import (
	"bytes"
	"encoding/binary"
	"errors"
)

const (
	// aheadMost is how many compressed bytes Ahead returns at most: more than 32 KiB
	// of output take, apart from what no encoder writes, and less than an Input holds.
	aheadMost = 48 << 10

	// refsFrom is where in the window a Probe begins, so that it is full after as many
	// symbols as the history has bytes: what comes later cannot reach behind the
	// place where decoding began.
	refsFrom = winLimit16 - history16
)

// Ahead returns the compressed bytes behind a mark, at most 48 KiB, for a Probe: the
// block begins skip bits behind the first. It is called by what was given to Watch, and
// what it returns is valid until that returns.
func (d *Decoder) Ahead() (p []byte, skip uint) {
	d.in.Peek(aheadMost)
	d.putBack()
	from := d.in.pos
	if d.nb > 0 {
		from--
		skip = 8 - d.nb
	}
	return d.in.buf[from:min(d.in.end, from+aheadMost)], skip
}

// A Refs says which bytes of a history of 32 KiB are referred to: 1 for those, else 0.
type Refs [History]byte

// A Probe finds out what of the history a stream refers to.
type Probe struct {
	b   *SymbolDecoder
	in  *Input
	src bytes.Reader
}

// NewProbe returns a Probe.
func NewProbe() *Probe {
	// Nothing is decoded as bytes: its Decoder has no window. What is before refsFrom is
	// not written by run, which moves no history between refsFrom and the end.
	b := &SymbolDecoder{dec: Decoder{litSym: litSymbols(), distSym: distSymbols()}}
	for i := range history {
		binary.LittleEndian.PutUint16(b.win[refsFrom-history16+i*symLen:], uint16(marker|i)) //nolint:gosec // G115: 16 bits
	}
	return &Probe{b: b, in: NewInput(nil)}
}

// Refs finds which bytes of the history are referred to by what is decoded from the
// block that begins skip bits behind the begin of p, up to one that begins at or
// behind stop, in bits from the begin of p, or the end of the stream. Only the first
// 32 KiB of output are decoded: nothing behind them can refer to the history. False:
// p ends before, or is damaged, and nothing is known.
func (r *Probe) Refs(p []byte, skip uint, stop int64, refs *Refs) bool {
	r.src.Reset(p)
	r.in.Reset(&r.src)
	b := r.b
	b.known, b.dec.in = false, r.in
	b.dec.start(skip)
	b.StopAt(stop)
	b.rp, b.op = refsFrom, refsFrom
	clear(refs[:])
	b.fillWindow()
	refs.mark(b.win[refsFrom:b.op])
	return b.op >= winLimit16 || errors.Is(b.dec.err, ErrStopped) || b.atStreamEnd()
}

// ended reports whether the stream ended with its last block.
func (b *SymbolDecoder) atStreamEnd() bool { return b.dec.state == atHeader && b.dec.final }

// mark marks what symbols refer to.
func (r *Refs) mark(p []byte) {
	for ; len(p) >= wordLen; p = p[wordLen:] {
		v := binary.LittleEndian.Uint64(p)
		if v&markersMask == 0 {
			continue
		}
		// A byte adds nothing to what the marker of that number has.
		r[v%History] |= uint8(v >> 15 & 1)
		r[v>>16%History] |= uint8(v >> 31 & 1)
		r[v>>32%History] |= uint8(v >> 47 & 1)
		r[v>>48%History] |= uint8(v >> 63)
	}
	for ; len(p) >= symLen; p = p[symLen:] {
		v := binary.LittleEndian.Uint16(p)
		r[v%History] |= uint8(v >> 15)
	}
}
