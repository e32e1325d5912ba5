//go:build !purego && !noasm

package flate

import "golang.org/x/sys/cpu"

// haveDecode reports whether the processor has what decode needs.
//
//nolint:gochecknoglobals // a property of the machine
var haveDecode = cpu.X86.HasBMI2 && cpu.X86.HasSSSE3

// loop is what decode works on.
type loop struct {
	lit              *[litSize]uint32
	dist             *[distSize]uint32
	in               *byte // ip counts from here
	win              *byte // op counts from here
	ip, op           int
	inLimit, opLimit int    // a turn begins with ip <= inLimit and op < opLimit
	bb, nb           uint64 // as in a Decoder
	plain            bool   // most symbols are literals
}

// Why decode has returned.
const (
	loopFull    = iota // a limit
	loopEnd            // of the block
	loopCorrupt        // a code that does not exist, or a distance behind the begin
)

// decode decodes symbols until it has a reason not to. A turn reads at most inSlack
// bytes behind the one at ip, and writes at most outSlack behind the one at op.
//
//go:noescape
func decode(l *loop) int

// decode16 is decode for a window of symbols of 16 bits, counted in bytes; a turn writes
// at most outSlack16 behind the one at op.
//
//go:noescape
func decode16(l *loop) int

// newLoop returns what decode works on, but for the window; false if there is less input
// than a turn may read.
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

// leave takes over where a loop has ended.
func (d *Decoder) finishLoop(l *loop, why int) {
	d.in.pos, d.bb, d.nb = l.ip, l.bb, uint(l.nb)
	switch why {
	case loopEnd:
		d.state = atHeader
	case loopCorrupt:
		d.err = ErrCorrupt
	}
}

// fast decodes symbols while there is so much input and room that neither has to
// be looked at within a turn.
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

// fast is that of a Decoder, for symbols.
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
