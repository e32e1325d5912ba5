package flate

import "encoding/binary"

// A SymbolDecoder decodes from the middle of a stream whose history is unknown.
// Its output consists of symbols of 16 bits, each a byte or a marker for a byte
// of the history. Once the last 32 KiB hold no marker, or Resolve has given it
// the history, it decodes bytes with a Decoder.
type SymbolDecoder struct {
	dec        Decoder
	known      bool // the history is known, and dec has it
	rp, op     int  // as in a Decoder, in bytes of win: twice the symbols
	lastMarker int  // no symbol after this position is a marker
	win        window16
}

const (
	// marker | i stands for byte i of the 32 KiB before the start of decoding.
	marker = 1 << 15

	symLen      = 2                // bytes of a symbol
	history16   = history * symLen // bytes
	markersMask = marker | marker<<16 | marker<<32 | marker<<48
)

// NewSymbolDecoder returns a SymbolDecoder. Its Reset must be called before any
// other method.
func NewSymbolDecoder() *SymbolDecoder {
	return &SymbolDecoder{dec: Decoder{litSym: litSymbols(), distSym: distSymbols(), win: new(Window)}}
}

// Reset makes b decode from the block that starts skip bits, at most 7, after
// the position of in.
func (b *SymbolDecoder) Reset(in *Input, skip uint) {
	b.known = false
	for i := range history {
		binary.LittleEndian.PutUint16(b.win[i*symLen:], uint16(marker|i)) //nolint:gosec // G115: 16 bits
	}
	b.rp, b.op, b.lastMarker = history16, history16, history16
	b.dec.in, b.dec.watcher = in, nil
	b.dec.start(skip)
}

// ByteDecoder returns the Decoder for the rest of the stream, or nil while the
// history is unknown.
func (b *SymbolDecoder) ByteDecoder() *Decoder {
	if !b.known {
		return nil
	}
	return &b.dec
}

// StopAt sets the limit of [Decoder.StopAt].
func (b *SymbolDecoder) StopAt(bits int64) { b.dec.StopAt(bits) }

// Bits returns the number of decoded bits of the source of the Input.
func (b *SymbolDecoder) Bits() int64 { return b.dec.Bits() }

// Pending returns the number of symbols, or bytes, that Next would return.
func (b *SymbolDecoder) Pending() int {
	if b.known {
		return b.dec.Pending()
	}
	return (b.op - b.rp) / symLen
}

// Watch makes b call f, unless it is nil, at the start of each further block.
func (b *SymbolDecoder) Watch(f func()) {
	b.dec.watcher = nil
	if f != nil {
		b.dec.watcher = func(Mark) { f() }
	}
}

// Ahead returns the result of [Decoder.Ahead].
func (b *SymbolDecoder) Ahead() (p []byte, skip uint) { return b.dec.Ahead() }

// Next returns decoded symbols, two bytes each in little-endian order, valid
// until the next call. It returns the errors of Decoder.Next. It must not be
// called once ByteDecoder returns a Decoder.
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

// Resolve gives b the table for the history of 32 KiB before its start.
func (b *SymbolDecoder) Resolve(t *Table) {
	if !b.known {
		b.switchToBytes(b.win[b.op-history16:b.op], t)
	}
}

// switchToBytes initializes dec with the last 32 KiB. t resolves the markers
// among them; nil means that there are no markers.
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

// historyKnown reports whether the last 32 KiB hold no marker. It remembers the
// position of the last marker, so that it checks each symbol at most once.
func (b *SymbolDecoder) historyKnown() bool {
	from := max(b.lastMarker, b.op-history16)
	for i := b.op - wordLen; i >= from; i -= wordLen {
		if binary.LittleEndian.Uint64(b.win[i:])&markersMask != 0 {
			b.lastMarker = i + wordLen
			return false
		}
	}
	// The loop above skips less than a word of symbols at the start.
	for i := from; i < min(from+wordLen, b.op); i += symLen {
		if b.win[i+1]&(marker>>8) != 0 {
			b.lastMarker = i + symLen
			return false
		}
	}
	return b.lastMarker <= b.op-history16
}

// fillWindow decodes until the window is full or err is set.
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

// copyStored copies the available bytes of a stored block.
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

// slow decodes a few tokens bit by bit, where the input or the window is too
// short for the fast loop.
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
		// The history is full, so no distance exceeds it.
		b.win.match(b.op, dist*symLen, n*symLen)
		b.op += n * symLen
	}
	return nil
}
