package flate

// fastGeneric is Decoder.fastGeneric for symbols of 16 bits. A literal costs
// the same, but a match takes twice as many stores. Distances need no check,
// because the history is always full.
//
//nolint:gosec // G115: fields of entries and masked bits fit
func (b *SymbolDecoder) fastGeneric() {
	d, w := &b.dec, &b.win
	in := d.in
	for in.end-in.pos < inSlack && in.fill() {
	}
	ip, op := in.pos, b.op
	inLimit := in.end - inSlack
	if ip > inLimit || op >= winLimit16 {
		return
	}
	lit, dst := &d.litTab, &d.distTab
	bb, nb, ip := in.refill(d.bb, uint64(d.nb), ip)
	next := lit[bb&litMask]

	for ip <= inLimit && op < winLimit16 {
		e := next
		if e&litFlag != 0 { // at most 11 bits, 45 are left
			bb >>= e & 63
			nb -= uint64(e)
			w.store16(op, uint16(e>>16&0xff))
			op += symLen
			e = lit[bb&litMask]
			if e&litFlag != 0 { // 34 are left
				bb >>= e & 63
				nb -= uint64(e)
				w.store16(op, uint16(e>>16&0xff))
				op += symLen
				e = lit[bb&litMask]
				if e&litFlag != 0 {
					bb >>= e & 63
					nb -= uint64(e)
					w.store16(op, uint16(e>>16&0xff))
					op += symLen
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
				w.store16(op, uint16(e>>16&0xff))
				op += symLen
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
		bb, nb, ip = in.refill(bb, nb, ip)
		next = lit[bb&litMask]
		dist, n = dist*symLen, n*symLen
		if dist >= wordLen {
			// Most matches are shorter than 16 symbols, and take no branch.
			sp, end := op-dist, op+n
			w.store64(op, w.load64(sp))
			w.store64(op+8, w.load64(sp+8))
			w.store64(op+16, w.load64(sp+16))
			w.store64(op+24, w.load64(sp+24))
			for op += 32; op < end; op += 16 {
				w.store64(op, w.load64(sp+32))
				w.store64(op+8, w.load64(sp+40))
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
	in.pos, b.op = ip, op
}
