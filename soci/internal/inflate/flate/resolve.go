package flate

import "encoding/binary"

// A Table maps symbols to bytes. It maps a byte to itself, and a marker to a
// byte of the history.
type Table [1 << 16]byte

// Fill makes t a table for a history of 32 KiB.
func (t *Table) Fill(past []byte) {
	for i := range 256 {
		t[i] = byte(i)
	}
	copy(t[marker:], past[:history])
}

// Resolve turns the symbols in p, which SymbolDecoder.Next returned, into bytes
// in place. It returns the first half of p, which holds the bytes.
func (t *Table) Resolve(p []byte) []byte {
	out := p[:len(p)/symLen]
	t.resolve(out, p)
	return out
}

// resolve writes the bytes for the symbols in src to dst, which may be the
// first half of src.
func (t *Table) resolve(dst, src []byte) {
	for len(dst) >= 4 && len(src) >= wordLen {
		v := binary.LittleEndian.Uint64(src)
		if v&markersMask == 0 {
			v |= v >> 8
			binary.LittleEndian.PutUint32(dst, uint32(v&0xffff|v>>16&0xffff0000)) //nolint:gosec // G115: 32 bits
		} else {
			d := dst[:4]
			d[0], d[1], d[2], d[3] = t[v&0xffff], t[v>>16&0xffff], t[v>>32&0xffff], t[v>>48]
		}
		dst, src = dst[4:], src[wordLen:]
	}
	for i := range dst {
		dst[i] = t[binary.LittleEndian.Uint16(src[i*symLen:])]
	}
}

// packBytes writes the bytes for symbols without markers.
func packBytes(dst, src []byte) {
	for i := range dst {
		dst[i] = src[i*symLen]
	}
}
