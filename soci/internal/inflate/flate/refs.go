package flate

import (
	"bytes"
	"encoding/binary"
	"errors"
)

const (
	// aheadMost is the most compressed bytes that Ahead returns. Encoders write
	// fewer bytes for 32 KiB of output, and an Input holds more.
	aheadMost = 48 << 10

	// refsFrom is the position in the window where a Probe starts. From there
	// the window is full after 32 Ki symbols, and later symbols cannot refer to
	// the history.
	refsFrom = winLimit16 - history16
)

// Ahead returns the compressed bytes that follow a mark, at most 48 KiB, for a
// Probe. The block starts skip bits after the start of p. Only the function
// given to Watch may call it; p is valid until that function returns.
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

// Refs marks the bytes of a history of 32 KiB that later output refers to with
// 1, and all others with 0.
type Refs [History]byte

// A Probe determines which bytes of the history a stream refers to.
type Probe struct {
	b   *SymbolDecoder
	in  *Input
	src bytes.Reader
}

// NewProbe returns a Probe.
func NewProbe() *Probe {
	// The Decoder has no window, because a Probe decodes no bytes. The markers
	// before refsFrom stay valid, because fillWindow does not move the history
	// before the window is full.
	b := &SymbolDecoder{dec: Decoder{litSym: litSymbols(), distSym: distSymbols()}}
	for i := range history {
		binary.LittleEndian.PutUint16(b.win[refsFrom-history16+i*symLen:], uint16(marker|i)) //nolint:gosec // G115: 16 bits
	}
	return &Probe{b: b, in: NewInput(nil)}
}

// Refs determines which bytes of the history are referred to by the output of
// the block that starts skip bits after the start of p, and of the blocks that
// follow it before stop, which counts bits from the start of p. It decodes at
// most 32 KiB of output, because later output cannot refer to the history. It
// returns false if p is damaged or too short.
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

// atStreamEnd reports whether the stream ended with its last block.
func (b *SymbolDecoder) atStreamEnd() bool { return b.dec.state == atHeader && b.dec.final }

// mark sets the bytes that the symbols in p refer to.
func (r *Refs) mark(p []byte) {
	for ; len(p) >= wordLen; p = p[wordLen:] {
		v := binary.LittleEndian.Uint64(p)
		if v&markersMask == 0 {
			continue
		}
		// The top bit is 0 for a byte, so only markers change r.
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
