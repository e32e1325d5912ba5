package flate

import (
	"bytes"
	"math/bits"
	"math/rand/v2"
)

// stream is a valid DEFLATE stream that no encoder would make.
type stream struct {
	data   []byte
	want   []byte
	blocks []Mark // without History
}

type bitWriter struct {
	b   []byte
	acc uint64
	n   uint
}

func (w *bitWriter) bits(v, n int) {
	w.acc |= uint64(v) << w.n
	for w.n += uint(n); w.n >= 8; w.n -= 8 {
		w.b = append(w.b, byte(w.acc))
		w.acc >>= 8
	}
}

func (w *bitWriter) align(fill int) {
	if w.n > 0 {
		w.bits(fill&(1<<(8-w.n)-1), int(8-w.n))
	}
}

// huffman is a code to write with.
type huffman struct {
	lens []uint8
	cw   []int
}

func newHuffman(lens []uint8) huffman {
	h := huffman{lens: lens, cw: make([]int, len(lens))}
	cw := 0
	for n := uint8(1); n <= maxBits; n++ {
		for s, l := range lens {
			if l == n {
				h.cw[s] = int(bits.Reverse16(uint16(cw)) >> (16 - n))
				cw++
			}
		}
		cw <<= 1
	}
	return h
}

func (h huffman) write(w *bitWriter, s int) { w.bits(h.cw[s], int(h.lens[s])) }

// randomLens returns a complete code, deep or flat, of at most most bits for
// the symbols. A single symbol gets one bit.
func randomLens(r *rand.Rand, n int, symbols []int, most uint8) []uint8 {
	lens := make([]uint8, n)
	if len(symbols) == 0 {
		return lens
	}
	leaves := []uint8{1}
	if len(symbols) > 1 {
		leaves = []uint8{1, 1}
	}
	deep := r.IntN(3) == 0
	for len(leaves) < len(symbols) {
		i := r.IntN(len(leaves))
		if deep && r.IntN(8) > 0 {
			i = len(leaves) - 1
		}
		if leaves[i] == most {
			for i = range leaves { // the first leaf that can be split
				if leaves[i] < most {
					break
				}
			}
		}
		leaves[i]++
		leaves = append(leaves, leaves[i])
	}
	r.Shuffle(len(leaves), func(i, j int) { leaves[i], leaves[j] = leaves[j], leaves[i] })
	for i, s := range symbols {
		lens[s] = leaves[i]
	}
	return lens
}

// token is a literal (dist 0) or a match.
type token struct{ n, dist int }

func lenSymbol(r *rand.Rand, n int) (sym, extra, x int) {
	if n == maxMatch && r.IntN(2) == 0 {
		return 284, 31, 5 // the longer of two encodings
	}
	tab := litSymbols()
	for s := maxLit - 1; ; s-- {
		if base := int(tab[s] >> 16 & 0x1ff); base <= n {
			return s, n - base, int(tab[s] & 63)
		}
	}
}

func distSymbol(d int) (sym, extra, x int) {
	tab := distSymbols()
	for s := maxDist - 1; ; s-- {
		if base := int(tab[s] >> 16); base <= d {
			return s, d - base, int(tab[s] & 63)
		}
	}
}

// tokens generates the tokens of a block and appends their output to out.
func tokens(r *rand.Rand, out []byte, size int) ([]token, []byte) {
	var toks []token
	literals, alphabet := r.IntN(101), 1+r.IntN(256)
	for range size {
		if len(out) == 0 || r.IntN(100) < literals {
			c := r.IntN(alphabet)
			toks = append(toks, token{n: c})
			out = append(out, byte(c))
			continue
		}
		far := min(len(out), history)
		t := token{n: 3 + r.IntN(maxMatch-2)}
		switch r.IntN(4) {
		case 0:
			t.dist = 1 + r.IntN(min(far, 40))
		case 1:
			t.dist = far - r.IntN(min(far, 3))
		default:
			t.dist = 1 + r.IntN(far)
		}
		if r.IntN(2) == 0 {
			t.n = 3 + r.IntN(30)
		}
		toks = append(toks, t)
		for range t.n {
			out = append(out, out[len(out)-t.dist])
		}
	}
	return toks, out
}

func (w *bitWriter) tokens(r *rand.Rand, toks []token, lit, dist huffman) {
	for _, t := range toks {
		if t.dist == 0 {
			lit.write(w, t.n)
			continue
		}
		s, extra, x := lenSymbol(r, t.n)
		if s >= len(lit.lens) || lit.lens[s] == 0 { // the code has only the other encoding of 258
			s, extra, x = 285+284-s, 31-extra, 5-x
		}
		lit.write(w, s)
		w.bits(extra, x)
		s, extra, x = distSymbol(t.dist)
		dist.write(w, s)
		w.bits(extra, x)
	}
	lit.write(w, endBlock)
}

// dynamic writes the header of a block with codes for all symbols of toks.
func (w *bitWriter) dynamic(r *rand.Rand, toks []token) (lit, dist huffman) {
	useLit, useDist := make([]bool, maxLit), make([]bool, maxDist)
	useLit[endBlock] = true
	for _, t := range toks {
		if t.dist == 0 {
			useLit[t.n] = true
			continue
		}
		s, _, _ := lenSymbol(r, t.n)
		useLit[s] = true
		s, _, _ = distSymbol(t.dist)
		useDist[s] = true
	}
	spare := r.IntN(4) // unused codes
	pick := func(use []bool) (symbols []int, n int) {
		for s, u := range use {
			if u || spare > 0 && r.IntN(4) < spare {
				symbols = append(symbols, s)
				n = s + 1
			}
		}
		return symbols, n
	}
	symbols, nlit := pick(useLit)
	nlit = max(nlit, 257)
	lit = newHuffman(randomLens(r, nlit+r.IntN(maxLit-nlit+1), symbols, maxBits))
	symbols, ndist := pick(useDist)
	ndist = max(ndist, 1)
	dist = newHuffman(randomLens(r, ndist+r.IntN(maxDist-ndist+1), symbols, maxBits))
	w.lengths(r, lit.lens, dist.lens)
	return lit, dist
}

// lengths writes the lengths of both codes, with or without runs.
func (w *bitWriter) lengths(r *rand.Rand, lit, dist []uint8) {
	type item struct{ sym, extra, x int }
	var items []item
	all := append(bytes.Clone(lit), dist...)
	runs := r.IntN(3) > 0
	for i := 0; i < len(all); {
		n := 1
		for i+n < len(all) && all[i+n] == all[i] {
			n++
		}
		switch {
		case runs && all[i] == 0 && n >= 11 && r.IntN(4) > 0:
			n = min(n, 138)
			items = append(items, item{18, n - 11, 7})
		case runs && all[i] == 0 && n >= 3:
			n = min(n, 10)
			items = append(items, item{17, n - 3, 3})
		case runs && i > 0 && all[i] == all[i-1] && n >= 3:
			n = min(n, 6)
			items = append(items, item{16, n - 3, 2})
		default:
			n = 1
			items = append(items, item{int(all[i]), 0, 0})
		}
		i += n
	}
	use := make([]bool, 19)
	for _, it := range items {
		use[it.sym] = true
	}
	var symbols []int
	for s, u := range use {
		if u || r.IntN(5) == 0 {
			symbols = append(symbols, s)
		}
	}
	h := newHuffman(randomLens(r, 19, symbols, 7))
	order := codeOrder()
	n := len(order)
	for n > 4 && h.lens[order[n-1]] == 0 {
		n--
	}
	w.bits(len(lit)-257, 5)
	w.bits(len(dist)-1, 5)
	w.bits(n-4, 4)
	for _, s := range order[:n] {
		w.bits(int(h.lens[s]), 3)
	}
	for _, it := range items {
		h.write(w, it.sym)
		w.bits(it.extra, it.x)
	}
}

func fixedHuffman() (lit, dist huffman) {
	d := NewDecoder(NewInput(nil))
	d.fixedCodes()
	lens := make([]uint8, litSyms)
	next := 0
	for n, k := range d.lit.count {
		for range k {
			lens[d.lit.sorted[next]] = uint8(n)
			next++
		}
	}
	return newHuffman(lens), newHuffman(bytes.Repeat([]byte{5}, distSyms))
}

// generate returns a stream of about size tokens, with blocks of all kinds.
func generate(r *rand.Rand, size int) stream {
	var s stream
	w := new(bitWriter)
	blocks := 1 + r.IntN(8)
	for i := range blocks {
		s.blocks = append(s.blocks, Mark{Bits: int64(len(w.b))*8 + int64(w.n), Out: int64(len(s.want))})
		final := 0
		if i == blocks-1 {
			final = 1
		}
		w.bits(final, 1)
		kind := r.IntN(4)
		if kind == 3 {
			kind = 2
		}
		w.bits(kind, 2)
		if kind == 0 {
			n := []int{0, 0, 1, r.IntN(1 + size), r.IntN(1<<16) * size / 2000 & 0xffff}[r.IntN(5)]
			w.align(r.IntN(256)) // the padding is ignored
			w.bits(n, 16)
			w.bits(n^0xffff, 16)
			for range n {
				c := byte(r.Uint32())
				s.want = append(s.want, c)
				w.b = append(w.b, c)
			}
			continue
		}
		var toks []token
		n := 0
		if r.IntN(6) > 0 {
			n = r.IntN(1 + size)
		}
		toks, s.want = tokens(r, s.want, n)
		var lit, dist huffman
		if kind == 1 {
			lit, dist = fixedHuffman()
		} else {
			lit, dist = w.dynamic(r, toks)
		}
		w.tokens(r, toks, lit, dist)
	}
	w.align(0)
	s.data = w.b
	return s
}
