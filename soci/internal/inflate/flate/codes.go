package flate

// fixedCodes sets the codes of RFC 1951 section 3.2.6.
func (d *Decoder) fixedCodes() {
	var lens [litSyms]uint8
	for s := range lens {
		switch {
		case s < 144:
			lens[s] = 8
		case s < 256:
			lens[s] = 9
		case s < 280:
			lens[s] = 7
		default:
			lens[s] = 8
		}
	}
	d.lit.init(lens[:])
	for s := range distSyms {
		lens[s] = 5
	}
	d.dist.init(lens[:distSyms])
	d.tables()
	// The lengths of the fixed code say nothing about the data. Some encoders
	// use it for literals only, so assume few matches.
	d.plain, d.fixed = true, true
}

// mostMatches is the share of matches, in 1/2^15 of the symbols, up to which a
// block is plain. With more matches, the branchless loop is faster: it
// mispredicts fewer branches, which outweighs its higher cost for a literal.
const mostMatches = 1 << maxBits / 8

// plainCode reports whether few matches are expected, according to the lengths
// of the codes.
func plainCode(lens []uint8) bool {
	matches := 0
	for _, n := range lens[endBlock+1:] {
		if n > 0 {
			matches += 1 << (maxBits - n)
		}
	}
	return matches <= mostMatches
}

// tables builds the decoding tables of both codes.
func (d *Decoder) tables() {
	d.lit.fill(d.litTab[:], d.litSym[:], litBits, specialFlag, func(off, bits uint32) uint32 {
		return specialFlag | subFlag | bits<<24 | off<<8 | litBits
	})
	d.dist.fill(d.distTab[:], d.distSym[:], distBits, distSpecial, func(off, bits uint32) uint32 {
		return off<<16 | distSpecial | distSub | bits<<8 | distBits
	})
}

// codeOrder returns the order in which the lengths of the code for code lengths
// are stored.
func codeOrder() [19]uint8 {
	return [19]uint8{16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15}
}

// dynamicCodes reads the codes of a block (RFC 1951 section 3.2.7).
func (d *Decoder) dynamicCodes() error {
	var lens [maxLit + maxDist]uint8
	nlit, ndist, err := d.readCodes(&lens)
	if err != nil {
		return err
	}
	if !d.lit.init(lens[:nlit]) || !d.dist.init(lens[nlit:nlit+ndist]) {
		return ErrCorrupt
	}
	d.plain = plainCode(lens[:nlit])
	// Before each symbol compress/flate reads as many bits as the end of the
	// block takes. If a stream is cut short, that determines the output before
	// the error.
	d.lit.need = max(d.lit.min, int(lens[endBlock]))
	d.tables()
	return nil
}

// readCodes reads the lengths of both codes: nlit literal/length codes, then
// ndist distance codes.
func (d *Decoder) readCodes(lens *[maxLit + maxDist]uint8) (nlit, ndist int, err error) {
	if err := d.needBits(14); err != nil {
		return 0, 0, err
	}
	nlit, ndist = d.takeBits(5)+257, d.takeBits(5)+1
	if nlit > maxLit || ndist > maxDist {
		return 0, 0, ErrCorrupt
	}
	nclen := d.takeBits(4) + 4
	order := codeOrder()
	for _, s := range order[:nclen] {
		if err := d.needBits(3); err != nil {
			return 0, 0, err
		}
		lens[s] = uint8(d.takeBits(3)) //nolint:gosec // G115: three bits
	}
	var c code
	if !c.init(lens[:19]) {
		return 0, 0, ErrCorrupt
	}
	var tab [1 << 7]uint32
	var sym [19]uint32
	for s := range sym {
		sym[s] = uint32(s) << 16
	}
	c.fill(tab[:], sym[:], 7, 0, nil)
	clear(lens[:19])
	return nlit, ndist, d.codeLengths(lens[:nlit+ndist], &tab)
}

// codeLengths reads the lengths of both codes, as one sequence.
func (d *Decoder) codeLengths(lens []uint8, tab *[1 << 7]uint32) error {
	in := d.in
	for i := 0; i < len(lens); {
		if d.nb < 7+7 && in.end-in.pos >= wordLen { // a symbol and its extra bits
			var nb uint64
			d.bb, nb, in.pos = in.refill(d.bb, uint64(d.nb), in.pos)
			d.nb = uint(nb)
			d.bb &= 1<<d.nb - 1
		}
		e := tab[d.bb&(1<<7-1)]
		for uint(e&15) > d.nb { // the code is at least as long as e says
			if err := d.needBits(d.nb + 1); err != nil {
				return err
			}
			e = tab[d.bb&(1<<7-1)]
		}
		if e == 0 {
			return ErrCorrupt
		}
		d.takeBits(uint(e & 15))
		s := uint8(e >> 16 & 0xff)
		if s < 16 {
			lens[i] = s
			i++
			continue
		}
		var v uint8
		rep, x := 3, uint(2)
		switch s {
		case 16:
			if i == 0 {
				return ErrCorrupt
			}
			v = lens[i-1]
		case 17:
			x = 3
		default:
			rep, x = 11, 7
		}
		if err := d.needBits(x); err != nil {
			return err
		}
		rep += d.takeBits(x)
		if i+rep > len(lens) {
			return ErrCorrupt
		}
		for ; rep > 0; rep-- {
			lens[i] = v
			i++
		}
	}
	return nil
}
