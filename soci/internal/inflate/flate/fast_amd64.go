//go:build !purego && !noasm

package flate

import "golang.org/x/sys/cpu"

// haveDecode reports whether the processor has the instructions that decode
// uses.
//
//nolint:gochecknoglobals // a property of the machine
var haveDecode = cpu.X86.HasBMI2 && cpu.X86.HasSSSE3

// loop is the state of decode.
type loop struct {
	lit              *[litSize]uint32
	dist             *[distSize]uint32
	in               *byte // base of ip
	win              *byte // base of op
	ip, op           int
	inLimit, opLimit int    // an iteration starts with ip <= inLimit and op < opLimit
	bb, nb           uint64 // as in a Decoder
	plain            bool   // most symbols are literals
}

// The results of decode.
const (
	loopFull    = iota // a limit was reached
	loopEnd            // the block ended
	loopCorrupt        // invalid code, or a distance beyond the start of the output
)

// decode decodes symbols until one of the results above. An iteration reads at
// most inSlack bytes from ip on, and writes at most outSlack bytes from op on.
//
//go:noescape
func decode(l *loop) int

// decode16 is decode for a window of symbols of 16 bits. Positions count bytes.
// An iteration writes at most outSlack16 bytes from op on.
//
//go:noescape
func decode16(l *loop) int

// newLoop returns the state for decode, without the window. It returns false if
// less input is left than an iteration may read.
func (d *Decoder) newLoop() (l loop, ok bool) {
	in := d.in
	for in.end-in.pos < inSlack && in.fill() {
	}
	return loop{
		lit: &d.litTab, dist: &d.distTab, plain: d.plain,
		in: &in.buf[0], ip: in.pos, inLimit: in.end - inSlack,
		bb: d.bb, nb: uint64(d.nb),
	}, in.end-in.pos >= inSlack
}

// finishLoop copies the state of a loop that has ended with a result to d.
func (d *Decoder) finishLoop(l *loop, why int) {
	d.in.pos, d.bb, d.nb = l.ip, l.bb, uint(l.nb)
	switch why {
	case loopEnd:
		d.state = atHeader
	case loopCorrupt:
		d.err = ErrCorrupt
	}
}

// fast decodes symbols while enough input and room in the window are left for
// an iteration without checks.
func (d *Decoder) fast() {
	if !haveDecode {
		d.fastGeneric()
		return
	}
	if l, ok := d.newLoop(); ok {
		l.win, l.op, l.opLimit = &d.win[0], d.op, winLimit
		d.finishLoop(&l, decode(&l))
		d.op = l.op
	}
}

// fast is Decoder.fast for symbols of 16 bits.
func (b *SymbolDecoder) fast() {
	if !haveDecode {
		b.fastGeneric()
		return
	}
	if l, ok := b.dec.newLoop(); ok {
		l.win, l.op, l.opLimit = &b.win[0], b.op, winLimit16
		b.dec.finishLoop(&l, decode16(&l))
		b.op = l.op
	}
}
