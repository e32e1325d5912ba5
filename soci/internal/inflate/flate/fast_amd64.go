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

// fast decodes symbols while there is so much input and room that neither has to
// be looked at within a turn.
func (d *Decoder) fast() {
	if !haveDecode {
		d.fastGeneric()
		return
	}
	in := d.in
	for in.end-in.pos < inSlack && in.fill() {
	}
	if in.end-in.pos < inSlack {
		return
	}
	l := loop{
		lit: &d.litTab, dist: &d.distTab,
		in: &in.buf[0], win: &d.win[0],
		ip: in.pos, op: d.op, inLimit: in.end - inSlack, opLimit: winLimit,
		bb: d.bb, nb: uint64(d.nb), plain: d.plain,
	}
	switch decode(&l) {
	case loopEnd:
		d.state = atHeader
	case loopCorrupt:
		d.err = ErrCorrupt
	}
	in.pos, d.op = l.ip, l.op
	d.bb, d.nb = l.bb, uint(l.nb)
}
