package flate

import "encoding/binary"

// A Blind decodes from the middle of a stream whose history is not known. What
// comes out are symbols of 16 bits: a byte, or a marker that stands for a byte of
// the history. When the last 32 KiB hold no marker, or the history is given, it goes
// on with bytes, as a Decoder.
type SymbolDecoder struct {
	dec        Decoder
	known      bool // the history is known: dec has it
	rp, op     int  // like a Decoder's, in bytes of win: twice the symbols
	lastMarker int  // where the last symbol was that may be a marker
	win        window16
}

const (
	// marker | i stands for byte i of the 32 KiB before the place where decoding began.
	marker = 1 << 15

	symLen      = 2                // bytes of a symbol
	history16   = history * symLen // bytes
	markersMask = marker | marker<<16 | marker<<32 | marker<<48
)

// NewBlind returns a Blind for use after Reset.
func NewSymbolDecoder() *SymbolDecoder {
	return &SymbolDecoder{dec: Decoder{litSym: litSymbols(), distSym: distSymbols(), win: new(Window)}}
}

// Reset makes b decode from the block that begins skip bits, at most 7, behind what
// in is at.
func (b *SymbolDecoder) Reset(in *Input, skip uint) {
	b.known = false
	for i := range history {
		binary.LittleEndian.PutUint16(b.win[i*symLen:], uint16(marker|i)) //nolint:gosec // G115: 16 bits
	}
	b.rp, b.op, b.lastMarker = history16, history16, history16
	b.dec.in, b.dec.watcher = in, nil
	b.dec.start(skip)
}

// Seeing returns the Decoder that goes on with bytes, or nil while the history is
// not known.
func (b *SymbolDecoder) ByteDecoder() *Decoder {
	if !b.known {
		return nil
	}
	return &b.dec
}

// StopAt and Bits are those of a Decoder.
func (b *SymbolDecoder) StopAt(bits int64) { b.dec.StopAt(bits) }

// Bits is how many bits of the Input's source have been decoded.
func (b *SymbolDecoder) Bits() int64 { return b.dec.Bits() }

// Pending is how many symbols, or bytes, Next has ready.
func (b *SymbolDecoder) Pending() int {
	if b.known {
		return b.dec.Pending()
	}
	return (b.op - b.rp) / symLen
}

// Watch makes b call f, unless nil, at every block from here on.
func (b *SymbolDecoder) Watch(f func()) {
	b.dec.watcher = nil
	if f != nil {
		b.dec.watcher = func(Mark) { f() }
	}
}

// Ahead is that of a Decoder.
func (b *SymbolDecoder) Ahead() (p []byte, skip uint) { return b.dec.Ahead() }

// Next returns decoded symbols, two bytes each and lowest first, valid until the
// next call; errors are those of a Decoder. It must not be called after Seeing has
// returned one.
func (b *SymbolDecoder) Next() ([]byte, error) {
	if b.rp == b.op && b.dec.err == nil {
		b.fillWindow()
	}
	if b.rp == b.op {
		return nil, b.dec.err
	}
	p := b.win[b.rp:b.op]
	b.rp = b.op
	if b.historyKnown() {
		b.switchToBytes(b.win[b.op-history16:b.op], nil)
	}
	return p, nil
}

// Resolve gives b the history, 32 KiB, of the place where it began.
func (b *SymbolDecoder) Resolve(t *Table) {
	if !b.known {
		b.switchToBytes(b.win[b.op-history16:b.op], t)
	}
}

// see goes on with bytes; without a table there are no markers.
func (b *SymbolDecoder) switchToBytes(past []byte, t *Table) {
	d := &b.dec
	if t == nil {
		packBytes(d.win[:history], past)
	} else {
		t.resolve(d.win[:history], past)
	}
	d.rp, d.op, d.base = history, history, -history
	b.known = true
}

// clean reports whether the last 32 KiB hold no marker. Where the last one is gets
// remembered, so that all symbols are looked at once or, mostly, not at all.
func (b *SymbolDecoder) historyKnown() bool {
	from := max(b.lastMarker, b.op-history16)
	for i := b.op - wordLen; i >= from; i -= wordLen {
		if binary.LittleEndian.Uint64(b.win[i:])&markersMask != 0 {
			b.lastMarker = i + wordLen
			return false
		}
	}
	// Less than a word, from on, was not looked at.
	for i := from; i < min(from+wordLen, b.op); i += symLen {
		if b.win[i+1]&(marker>>8) != 0 {
			b.lastMarker = i + symLen
			return false
		}
	}
	return b.lastMarker <= b.op-history16
}

// run decodes until the window is full or the decoder stops.
func (b *SymbolDecoder) fillWindow() {
	d := &b.dec
	if b.op >= winLimit16 {
		n := copy(b.win[:history16], b.win[b.op-history16:b.op])
		b.lastMarker = max(0, b.lastMarker-(b.op-n))
		b.op, b.rp = n, n
	}
	for d.err == nil && b.op < winLimit16 {
		switch d.state {
		case atHeader:
			d.err = d.startBlock()
		case inStored:
			d.err = b.copyStored()
		default:
			b.fast()
			if d.err == nil && d.state == inCodes {
				d.err = b.slow()
			}
		}
		d.checkEnd()
	}
}

// copyStored copies what there is of a stored block.
func (b *SymbolDecoder) copyStored() error {
	d, in := &b.dec, b.dec.in
	for d.stored > 0 && b.op < winLimit16 {
		if in.pos == in.end && !in.fill() {
			return d.sourceEnded()
		}
		n := min(d.stored, (winLimit16-b.op+1)/symLen, in.end-in.pos)
		dst := b.win[b.op : b.op+n*symLen]
		for i, c := range in.buf[in.pos : in.pos+n] {
			binary.LittleEndian.PutUint16(dst[i*symLen:], uint16(c))
		}
		in.pos += n
		b.op += n * symLen
		d.stored -= n
	}
	if d.stored == 0 {
		d.state = atHeader
	}
	return nil
}

// slow decodes a few tokens: where the input or the output ends.
func (b *SymbolDecoder) slow() error {
	d := &b.dec
	for range slowTokens {
		if b.op >= winLimit16 {
			return nil
		}
		n, dist, err := d.token()
		switch {
		case err != nil:
			return err
		case d.state != inCodes:
			return nil
		case dist == 0:
			binary.LittleEndian.PutUint16(b.win[b.op:], uint16(n)) //nolint:gosec // G115: a byte
			b.op += symLen
			continue
		}
		// The history is full: no distance reaches behind it.
		b.win.match(b.op, dist*symLen, n*symLen)
		b.op += n * symLen
	}
	return nil
}
