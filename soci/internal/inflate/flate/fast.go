package flate

// inSlack is the number of bytes that the fast loop may read past its limit. An
// iteration refills the bit buffer at most four times; each refill loads 8
// bytes and advances by at most 7.
const inSlack = 32

// refill fills the bit buffer to at least 56 bits. Only the low six bits of nb
// count, because whole table entries are subtracted from it.
func (in *Input) refill(bb, nb uint64, ip int) (uint64, uint64, int) {
	return bb | in.load64(ip)<<(nb&63), nb | 56, ip + int(^nb>>3&7)
}

// fastGeneric decodes symbols while enough input and room in the window are
// left for an iteration without checks. An iteration decodes up to three
// literals, or up to two literals and a match. The table entry of the first
// symbol of the next iteration is loaded before a match is copied, which hides
// the latency of the load.
//
// These designs were slower: two literals, or a literal and a length, packed
// into one entry (building the tables costs more than it gains in blocks of 16
// k symbols); tables of 10 and 12 bits; distance tables of 8 bits.
//
//nolint:gosec // G115: fields of entries and masked bits fit
func (d *Decoder) fastGeneric() {
	in, w := d.in, d.win
	for in.end-in.pos < inSlack && in.fill() {
	}
	ip, op := in.pos, d.op
	inLimit := in.end - inSlack
	if ip > inLimit || op >= winLimit {
		return
	}
	lit, dst := &d.litTab, &d.distTab
	bb, nb, ip := in.refill(d.bb, uint64(d.nb), ip)
	next := lit[bb&litMask]

	for ip <= inLimit && op < winLimit {
		e := next
		if e&litFlag != 0 { // at most 11 bits, 45 are left
			bb >>= e & 63
			nb -= uint64(e)
			w.store8(op, uint8(e>>16))
			op++
			e = lit[bb&litMask]
			if e&litFlag != 0 { // 34 are left
				bb >>= e & 63
				nb -= uint64(e)
				w.store8(op, uint8(e>>16))
				op++
				e = lit[bb&litMask]
				if e&litFlag != 0 {
					bb >>= e & 63
					nb -= uint64(e)
					w.store8(op, uint8(e>>16))
					op++
					bb, nb, ip = in.refill(bb, nb, ip)
					next = lit[bb&litMask]
					continue
				}
				bb, nb, ip = in.refill(bb, nb, ip)
			}
		}
		if e&specialFlag != 0 {
			if e&subFlag != 0 {
				bb >>= litBits
				nb -= litBits
				e = lit[int(e>>8&0xffff)+int(bb&(1<<(e>>24&15)-1))]
			}
			if e&specialFlag != 0 {
				if e&endFlag == 0 {
					d.err = ErrCorrupt
					break
				}
				bb >>= e & 63
				nb -= uint64(e)
				d.state = atHeader
				break
			}
			if e&litFlag != 0 {
				bb >>= e & 63
				nb -= uint64(e)
				w.store8(op, uint8(e>>16))
				op++
				bb, nb, ip = in.refill(bb, nb, ip)
				next = lit[bb&litMask]
				continue
			}
			bb, nb, ip = in.refill(bb, nb, ip)
		}
		// The rest of a length, at most 16 bits: without the refill 29 are
		// left, a distance takes 28.
		n := int(e>>16) + int(bb&(1<<(e&63)-1)>>(e>>codeShift&63))
		bb >>= e & 63
		nb -= uint64(e)

		f := dst[bb&distMask]
		if f&distSpecial != 0 {
			if f&distSub != 0 {
				bb >>= distBits
				nb -= distBits
				f = dst[int(f>>16)+int(bb&(1<<(f>>8&15)-1))]
			}
			if f&distSpecial != 0 {
				d.err = ErrCorrupt
				break
			}
		}
		dist := int(f>>16) + int(bb&(1<<(f&63)-1)>>(f>>codeShift&63))
		bb >>= f & 63
		nb -= uint64(f)
		if dist > op {
			d.err = ErrCorrupt
			break
		}

		bb, nb, ip = in.refill(bb, nb, ip)
		next = lit[bb&litMask]
		if dist >= wordLen {
			// Most matches are shorter than 24 bytes, and take no branch.
			sp, end := op-dist, op+n
			w.store64(op, w.load64(sp))
			w.store64(op+8, w.load64(sp+8))
			w.store64(op+16, w.load64(sp+16))
			for op += 24; op < end; op += 16 {
				w.store64(op, w.load64(sp+24))
				w.store64(op+8, w.load64(sp+32))
				sp += 16
			}
			op = end
		} else {
			w.repeat(op, dist, n)
			op += n
		}
	}
	d.nb = uint(nb & 63)
	d.bb = bb & (1<<d.nb - 1)
	in.pos, d.op = ip, op
}
