//go:build linux && !purego && !noasm

package flate

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"syscall"
	"testing"
)

// eachLoop calls f with every fast loop that this processor has.
func eachLoop(f func()) {
	f()
	if haveDecode {
		haveDecode = false
		defer func() { haveDecode = true }()
		f()
	}
}

// TestGenericLoop runs the tests of the package with the loop in Go.
func TestGenericLoop(t *testing.T) {
	if !haveDecode {
		t.Skip("this processor has only the loop in Go, which all other tests use")
	}
	haveDecode = false
	defer func() { haveDecode = true }()
	for name, test := range map[string]func(*testing.T){"generated": TestGenerated, "damaged": TestDamaged, "codes": TestUnusualCodes, "marks": TestMarks, "blind": TestSymbolDecoder} {
		t.Run(name, test)
	}
}

// guarded returns n bytes between inaccessible pages, directly after the first
// page if behind is true, else directly before the second.
func guarded(t *testing.T, n int, behind bool) []byte {
	t.Helper()
	page := syscall.Getpagesize()
	size := (n + page - 1) / page * page
	mem, err := syscall.Mmap(-1, 0, size+2*page, syscall.PROT_NONE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Munmap(mem); err != nil {
			t.Error(err)
		}
	})
	inner := mem[page : page+size]
	if err := syscall.Mprotect(inner, syscall.PROT_READ|syscall.PROT_WRITE); err != nil {
		t.Fatal(err)
	}
	if behind {
		return inner[:n:n]
	}
	return inner[size-n:]
}

// randomCodes sets complete codes of random symbols.
func randomCodes(r *rand.Rand, d *Decoder) {
	pick := func(n, from int) (symbols []int) {
		share := 1 + r.IntN(100)
		for s := range n {
			if r.IntN(100) < share || s == from {
				symbols = append(symbols, s)
			}
		}
		return symbols
	}
	d.lit.init(randomLens(r, maxLit, pick(maxLit, endBlock+r.IntN(2)*r.IntN(30)), maxBits))
	symbols := pick(maxDist, r.IntN(maxDist))
	if r.IntN(2) == 0 { // small distances, which the short output allows
		symbols = slices.DeleteFunc(symbols, func(s int) bool { return s > 8 })
	}
	d.dist.init(randomLens(r, maxDist, symbols, maxBits))
	d.tables()
	d.plain = r.IntN(2) == 0
}

// checkLoop decodes any bytes by any code, with exactly the input and room that
// the loop may use, and compares the output with tokens that are decoded bit by
// bit. symbol is the number of bytes of a symbol.
func checkLoop(t *testing.T, run func(*loop) int, symbol, slack int, seed uint64, input []byte) {
	t.Helper()
	r := rng(seed)
	d := NewDecoder(NewInput(bytes.NewReader(input)))
	randomCodes(r, d)
	behind := r.IntN(2) == 0
	in := guarded(t, len(input), behind)
	copy(in, input)
	had, room := r.IntN(400)*symbol, 1+r.IntN(2000)
	win := guarded(t, had+room+slack, behind)
	for i := range win {
		win[i] = byte(r.Uint32())
	}
	want := bytes.Clone(win[:had])
	skip := uint(r.IntN(8))
	l := loop{
		lit: &d.litTab, dist: &d.distTab, in: &in[0], win: &win[0], op: had, ip: 1,
		inLimit: len(in) - inSlack, opLimit: had + room,
		bb: uint64(in[0]) >> skip, nb: uint64(8 - skip), plain: d.plain,
	}
	why := run(&l)

	if err := d.needBits(skip); err != nil {
		t.Fatal(err)
	}
	d.takeBits(skip)
	d.state = inCodes
	step := func() error {
		n, dist, err := d.token()
		switch {
		case err != nil:
			return err
		case d.state != inCodes:
		case dist == 0:
			want = append(want, byte(n), 0)[:len(want)+symbol]
		case dist*symbol > len(want):
			return ErrCorrupt
		}
		if dist > 0 {
			for range n * symbol {
				want = append(want, want[len(want)-dist*symbol])
			}
		}
		return nil
	}
	for len(want) < l.op && d.state == inCodes {
		if err := step(); err != nil {
			t.Fatalf("%v at byte %d, the loop came to %d", err, len(want), l.op)
		}
	}
	if !bytes.Equal(want, win[:l.op]) {
		t.Fatalf("%d bytes, the loop has %d, or other ones", len(want), l.op)
	}
	switch why {
	case loopFull:
		if l.op < l.opLimit && l.ip <= l.inLimit {
			t.Fatalf("the loop stopped at %d of %d, %d of %d", l.ip, l.inLimit, l.op, l.opLimit)
		}
	case loopEnd:
		if err := step(); err != nil || d.state != atHeader {
			t.Fatalf("%v, state %d; the loop has met the end of the block", err, d.state)
		}
	case loopCorrupt:
		if err := step(); err != ErrCorrupt {
			t.Fatalf("%v; the loop has met what is corrupt", err)
		}
		return
	}
	if bits := int64(l.ip)*8 - int64(l.nb); bits != d.Bits() || l.nb > 63 || l.bb>>l.nb != 0 {
		t.Fatalf("bit %d, %d of them in %#x; the slow loop is at %d", bits, l.nb, l.bb, d.Bits())
	}
}

// TestLoop checks that the loops in assembly decode any bytes as the slow loop
// does, and access no memory outside of their buffers.
func TestLoop(t *testing.T) {
	if !haveDecode {
		t.Skip("this processor has only the loop in Go")
	}
	for seed := range uint64(2000) {
		r := rng(seed)
		input := make([]byte, inSlack+1+r.IntN(1500))
		for i := range input {
			input[i] = byte(r.Uint32())
		}
		checkLoop(t, decode, 1, outSlack, seed, input)
		checkLoop(t, decode16, symLen, outSlack16, seed, input)
		if t.Failed() {
			t.Fatal(seed)
		}
	}
}

// FuzzLoop compares the loops in assembly with the slow loop.
func FuzzLoop(f *testing.F) {
	f.Add(uint64(1), bytes.Repeat([]byte{0x55, 0xaa, 0x13}, 50))
	f.Add(uint64(2), make([]byte, 200))
	f.Fuzz(func(t *testing.T, seed uint64, input []byte) {
		if haveDecode && len(input) > inSlack && len(input) < 1<<16 {
			checkLoop(t, decode, 1, outSlack, seed, input)
			checkLoop(t, decode16, symLen, outSlack16, seed, input)
		}
	})
}
