package tartest

import (
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/penstock/penstock/soci/internal/tarfile"
)

// The offsets of header fields that tests overwrite.
const (
	SizeOff    = 124
	MtimeOff   = 136
	SumOff     = 148
	LinkOff    = 157
	PrefixOff  = 345
	StarOff    = 508 // of star's magic
	StarPrefix = 131 // bytes of star's prefix; times follow
)

const (
	nameLen   = 100
	modeOff   = 100
	uidOff    = 108
	gidOff    = 116
	idLen     = 8 // mode, uid and gid
	sumLen    = 8
	typeOff   = 156
	magicOff  = 257
	sparseOff = 386 // of GNU's sparse map
	realOff   = 483 // of GNU's size of a sparse file

	// SizeLen is the length of size and time fields.
	SizeLen = 12
)

// Raw is a header block whose fields can be overwritten with any bytes.
type Raw [tarfile.BlockSize]byte

// Block returns a POSIX header of an entry with the size of body.
func Block(kind byte, name, body string) *Raw {
	b := new(Raw)
	copy(b[:nameLen], name)
	b.Octal(modeOff, idLen, 0o644)
	if kind == tarfile.TypeDir {
		b.Octal(modeOff, idLen, 0o755)
	}
	b.Octal(uidOff, idLen, 0)
	b.Octal(gidOff, idLen, 0)
	b.Octal(SizeOff, SizeLen, int64(len(body)))
	b.Octal(MtimeOff, SizeLen, 1_700_000_000)
	b[typeOff] = kind
	copy(b[magicOff:], "ustar\x0000")
	return b
}

// Octal writes a numeric field of n bytes.
func (b *Raw) Octal(off, n int, v int64) *Raw {
	copy(b[off:off+n], fmt.Sprintf("%0*o\x00", n-1, v))
	return b
}

// Put overwrites bytes.
func (b *Raw) Put(off int, s string) *Raw {
	copy(b[off:], s)
	return b
}

// GNU makes the header one of GNU tar.
func (b *Raw) GNU() *Raw { return b.Put(magicOff, "ustar  \x00") }

// V7 makes the header one of version 7.
func (b *Raw) V7() *Raw {
	clear(b[magicOff:PrefixOff])
	return b
}

// With writes the checksum and returns the header and the padded content.
func (b *Raw) With(body string) string {
	Sign(b[:])
	return string(b[:]) + Padded(body)
}

// Padded returns body padded to whole blocks.
func Padded(body string) string {
	return body + strings.Repeat("\x00", -len(body)&(tarfile.BlockSize-1))
}

// Sign writes the checksum of a header block.
func Sign(b []byte) {
	var sum int
	for i, c := range b[:tarfile.BlockSize] {
		if i >= SumOff && i < SumOff+sumLen {
			c = ' '
		}
		sum += int(c)
	}
	copy(b[SumOff:], fmt.Sprintf("%06o\x00 ", sum))
}

// SignSigned writes the checksum of ancient tars, which added up signed bytes.
func SignSigned(b []byte) {
	var sum int
	for i, c := range b[:tarfile.BlockSize] {
		if i >= SumOff && i < SumOff+sumLen {
			c = ' '
		}
		sum += int(int8(c)) //nolint:gosec // G115: signed on purpose
	}
	copy(b[SumOff:], fmt.Sprintf("%06o\x00 ", sum))
}

// End is the end of an archive.
var End = strings.Repeat("\x00", 2*tarfile.BlockSize)

// File is a regular file.
func File(name, body string) string { return Block(tarfile.TypeFile, name, body).With(body) }

// Records is an extended header of keys and values.
func Records(kind byte, pairs ...string) string {
	var body strings.Builder
	for i := 0; i < len(pairs); i += 2 {
		rest := " " + pairs[i] + "=" + pairs[i+1] + "\n"
		n := len(rest)
		for len(fmt.Sprint(n))+len(rest) != n {
			n = len(fmt.Sprint(n)) + len(rest)
		}
		body.WriteString(fmt.Sprint(n) + rest)
	}
	return Pax(kind, body.String())
}

// Pax is an extended header with any content.
func Pax(kind byte, body string) string { return Block(kind, "pax", body).With(body) }

// LongName is GNU's header for the long name, or link target, of the next
// entry.
func LongName(kind byte, name string) string {
	return Block(kind, "././@LongLink", name+"\x00").GNU().With(name + "\x00")
}

// OldSparse is a sparse file of old GNU tar: offsets and lengths of at most
// four extents, and the size of the file.
func OldSparse(name, body string, size int64, extents ...int64) string {
	b := Block(tarfile.TypeGNUSparse, name, body).GNU()
	for i, v := range extents {
		b.Octal(sparseOff+SizeLen*i, SizeLen, v)
	}
	return b.Octal(realOff, SizeLen, size).With(body)
}

// Sparse1 is a sparse file of GNU's pax format 1.0 with any map.
func Sparse1(name, sparseMap, body, size string) string {
	content := Padded(sparseMap) + body
	return Records(tarfile.TypePax, "GNU.sparse.major", "1", "GNU.sparse.minor", "0", "GNU.sparse.name", name, "GNU.sparse.realsize", size) +
		Block(tarfile.TypeFile, "GNUSparseFile.0/"+name, content).With(content)
}

// Base256 is a number of n bytes in the form of GNU tar and star for large
// numbers.
func Base256(n int, v int64) string {
	b := make([]byte, n)
	binary.BigEndian.PutUint64(b[n-8:], uint64(v)) //nolint:gosec // G115: tests pass positive numbers
	b[0] |= 0x80
	return string(b)
}

// AttributeHeaders is an archive of files, each with an extended header of n
// attributes.
func AttributeHeaders(files, n int) string {
	var pairs []string
	for i := range n {
		pairs = append(pairs, fmt.Sprintf("SCHILY.xattr.user.%05d", i), "v")
	}
	one := Records(tarfile.TypePax, pairs...)
	var out strings.Builder
	for i := range files {
		out.WriteString(one + File(fmt.Sprint("f", i), ""))
	}
	return out.String() + End
}
