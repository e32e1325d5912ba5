package untar

import (
	"fmt"
	"strings"
)

// raw is a header block to be spoilt by hand: writers of archives refuse to write
// what an attacker does.
type raw [sector]byte

// block makes a header of the POSIX dialect; body is what its size says.
func block(flag byte, name, body string) *raw {
	b := new(raw)
	copy(b[nameOff:nameOff+nameLen], name)
	b.octal(modeOff, modeLen, 0o644)
	if flag == typeDir {
		b.octal(modeOff, modeLen, 0o755)
	}
	b.octal(uidOff, uidLen, 0)
	b.octal(gidOff, gidLen, 0)
	b.octal(sizeOff, sizeLen, int64(len(body)))
	b.octal(mtimeOff, mtimeLen, 1_700_000_000)
	b[flagOff] = flag
	copy(b[magicOff:], "ustar\x0000")
	return b
}

// octal writes a numeric field.
func (b *raw) octal(off, n int, v int64) *raw {
	copy(b[off:off+n], fmt.Sprintf("%0*o\x00", n-1, v))
	return b
}

// put overwrites bytes.
func (b *raw) put(off int, s string) *raw {
	copy(b[off:], s)
	return b
}

// gnu makes the header one of GNU tar.
func (b *raw) gnu() *raw { return b.put(magicOff, "ustar  \x00") }

// old makes the header one of version 7.
func (b *raw) old() *raw {
	clear(b[magicOff:prefixOff])
	return b
}

// with signs the header and adds the content, padded.
func (b *raw) with(body string) string {
	sign(b[:])
	return string(b[:]) + body + strings.Repeat("\x00", int(padding(int64(len(body)))))
}

// theEnd is how an archive ends.
var theEnd = strings.Repeat("\x00", 2*sector)

// rawFile is a file as any tar writes it.
func rawFile(name, body string) string { return block(typeFile, name, body).with(body) }

// records is an extended header.
func records(flag byte, pairs ...string) string {
	var body strings.Builder
	for i := 0; i < len(pairs); i += 2 {
		rest := " " + pairs[i] + "=" + pairs[i+1] + "\n"
		n := len(rest)
		for len(fmt.Sprint(n))+len(rest) != n {
			n = len(fmt.Sprint(n)) + len(rest)
		}
		body.WriteString(fmt.Sprint(n) + rest)
	}
	return rawPax(flag, body.String())
}

// rawPax is an extended header with any content.
func rawPax(flag byte, body string) string { return block(flag, "pax", body).with(body) }

// long is GNU's way to give a long name.
func long(flag byte, name string) string {
	return block(flag, "././@LongLink", name+"\x00").gnu().with(name + "\x00")
}

// oldSparse is a sparse file of old GNU tar: extents of offset and length, four at
// most, and the size of the whole.
func oldSparse(name, body string, size int64, extents ...int64) string {
	b := block(typeGNUSparse, name, body).gnu()
	for i, v := range extents {
		b.octal(gnuSparseOff+12*i, 12, v)
	}
	return b.octal(gnuRealOff, 12, size).with(body)
}

// sparse1 is a sparse file of GNU's pax format 1.0 with any map.
func sparse1(name, sparseMap, body, size string) string {
	content := sparseMap + strings.Repeat("\x00", int(padding(int64(len(sparseMap))))) + body
	return records(typePax, "GNU.sparse.major", "1", "GNU.sparse.minor", "0", "GNU.sparse.name", name, "GNU.sparse.realsize", size) +
		block(typeFile, "GNUSparseFile.0/"+name, content).with(content)
}

// base256 is a number as GNU and star write it when octal is too short.
func base256(n int, v int64) string {
	b := make([]byte, n)
	for i := n - 1; i >= 0; i-- {
		b[i] = byte(v)
		v >>= 8
	}
	b[0] |= 0x80
	return string(b)
}
