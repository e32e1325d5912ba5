package tarfile

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
)

// The types of entries, as the header encodes them (POSIX pax, GNU tar).
const (
	TypeFile       = '0'
	TypeFileV7     = '\x00' // a regular file, or a directory if its name ends in a slash
	TypeHardLink   = '1'
	TypeSymlink    = '2'
	TypeChar       = '3'
	TypeBlock      = '4'
	TypeDir        = '5'
	TypeFifo       = '6'
	TypeContiguous = '7' // a regular file on systems without contiguous files
	TypePax        = 'x' // describes the next entry
	TypePaxGlobal  = 'g' // describes all following entries
	TypeGNUName    = 'L' // holds the name of the next entry
	TypeGNULink    = 'K' // holds the link target of the next entry
	TypeGNUSparse  = 'S'
	TypeGNUDumpDir = 'D' // a directory with a list of names
)

// BlockSize is the unit of an archive in bytes: headers take whole blocks, and
// content is padded to whole blocks.
const BlockSize = 512

// Time is a time stamp of an entry: Sec is in seconds since 1970 and may be
// negative, 0 <= Nsec < 1e9.
type Time struct{ Sec, Nsec int64 }

// Attr is an extended attribute.
type Attr struct{ Name, Value string }

// Extent is a range of a sparse file whose content the archive holds.
type Extent struct{ Off, Len int64 }

// Header describes one entry.
type Header struct {
	Name, Link   string
	Type         byte
	Mode         int64
	UID, GID     int64
	Stored       int64 // bytes of content in the archive
	Size         int64 // bytes of the file; differs from Stored if the file is sparse
	Mtime, Atime Time
	Major, Minor int64
	Attrs        []Attr // each name once
	Sparse       bool
	Extents      []Extent // ascending; the lengths add up to Stored
}

// IsRegular reports whether the entry is a file with content.
func (h *Header) IsRegular() bool {
	switch h.Type {
	case TypeFile, TypeFileV7, TypeContiguous, TypeGNUSparse:
		return true
	}
	return false
}

// hasContent reports whether content follows the header. Directories, links and
// devices have no content, even if their size is not zero (POSIX).
func (h *Header) hasContent() bool {
	switch h.Type {
	case TypeHardLink, TypeSymlink, TypeChar, TypeBlock, TypeDir, TypeFifo:
		return false
	}
	return true
}

// badf returns an ErrFormat with a message.
func badf(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrFormat, fmt.Sprintf(format, args...))
}

// The fields of a header block: offset and length in bytes.
const (
	nameOff, nameLen     = 0, 100
	modeOff, modeLen     = 100, 8
	uidOff, uidLen       = 108, 8
	gidOff, gidLen       = 116, 8
	sizeOff, sizeLen     = 124, 12
	mtimeOff, mtimeLen   = 136, 12
	sumOff, sumLen       = 148, 8
	flagOff              = 156
	linkOff, linkLen     = 157, 100
	magicOff             = 257
	majorOff, majorLen   = 329, 8
	minorOff, minorLen   = 337, 8
	prefixOff, prefixLen = 345, 155
	starPrefixLen        = 131 // star stores times after its shorter prefix
	starMagicOff         = 508
	gnuTimeLen           = 12 // atime and ctime, in the place of the POSIX prefix
	gnuSparseOff         = 386
	gnuMoreOff           = 482
	gnuRealOff           = 483
)

// parseHeader overwrites h with the contents of a header block.
func parseHeader(b []byte, h *Header) error {
	if err := checksum(b); err != nil {
		return err
	}
	*h = Header{
		Type: b[flagOff],
		Name: cstring(b[nameOff : nameOff+nameLen]),
		Link: cstring(b[linkOff : linkOff+linkLen]),
	}
	var p numbers
	h.Mode = p.field("mode", b[modeOff:modeOff+modeLen])
	h.UID = p.field("owner", b[uidOff:uidOff+uidLen])
	h.GID = p.field("group", b[gidOff:gidOff+gidLen])
	h.Stored = p.field("size", b[sizeOff:sizeOff+sizeLen])
	h.Mtime.Sec = p.field("time", b[mtimeOff:mtimeOff+mtimeLen])
	h.Atime = h.Mtime
	if (h.Type == TypeChar || h.Type == TypeBlock) && string(b[magicOff:magicOff+5]) == "ustar" { // version 7 has no device numbers
		h.Major = p.field("device", b[majorOff:majorOff+majorLen])
		h.Minor = p.field("device", b[minorOff:minorOff+minorLen])
	}
	h.Size = h.Stored
	if prefix := prefixOf(b); prefix != "" {
		h.Name = prefix + "/" + h.Name
	}
	return p.err
}

// prefixOf returns the directory part of the name that the header stores
// separately. Where it lies depends on the dialect of the header.
func prefixOf(b []byte) string {
	prefix := b[prefixOff : prefixOff+prefixLen]
	if prefix[0] == 0 {
		return ""
	}
	switch {
	case string(b[magicOff:magicOff+6]) == "ustar\x00":
		if string(b[starMagicOff:starMagicOff+4]) == "tar\x00" {
			prefix = prefix[:starPrefixLen]
		}
		return cstring(prefix)
	case string(b[magicOff:magicOff+8]) == "ustar  \x00":
		// GNU tar stores times here. Go before 1.8 stored a prefix instead, and
		// old images have such layers. Like archive/tar, we therefore read a
		// field that cannot be a time as a prefix, so that a layer has the same
		// names here and in containerd. (GNU tar never reads a prefix here, and
		// never writes a field that looks like one.)
		if isGNUTime(prefix[:gnuTimeLen]) && isGNUTime(prefix[gnuTimeLen:2*gnuTimeLen]) {
			return ""
		}
		text := cstring(prefix)
		if strings.IndexFunc(text, func(r rune) bool { return r >= 0x80 }) >= 0 {
			return ""
		}
		return text
	}
	return ""
}

// isGNUTime reports whether archive/tar would read a field as a time, which is
// an empty field, a base-256 number, or octal digits surrounded by spaces and
// zero bytes.
func isGNUTime(b []byte) bool {
	if b[0] == 0 {
		return true
	}
	if b[0]&0x80 != 0 {
		var p numbers
		p.base256("", b)
		return p.err == nil
	}
	digits := cstring(bytes.Trim(b, " \x00"))
	return strings.Trim(digits, "01234567") == ""
}

// checksum verifies the checksum of a header: the sum of its bytes, with the
// field itself read as spaces. Ancient tars added up signed bytes, which is
// accepted too.
func checksum(b []byte) error {
	var p numbers
	want := p.field("checksum", b[sumOff:sumOff+sumLen])
	if p.err == nil && (want == unsignedSum(b) || want == signedSum(b)) {
		return nil
	}
	return badf("invalid tar header: wrong checksum")
}

// unsignedSum adds the bytes of a header, eight at a time in four 16-bit lanes.
// A lane cannot overflow, because it adds 64 words of at most 2*255.
func unsignedSum(b []byte) int64 {
	const lanes = 0x00ff00ff00ff00ff
	var sum uint64
	for i := 0; i < BlockSize; i += 8 {
		w := binary.LittleEndian.Uint64(b[i:])
		sum += w&lanes + w>>8&lanes
	}
	total := int64(sum&0xffff + sum>>16&0xffff + sum>>32&0xffff + sum>>48)
	for _, c := range b[sumOff : sumOff+sumLen] {
		total += ' ' - int64(c)
	}
	return total
}

func signedSum(b []byte) int64 {
	var total int64
	for i, c := range b[:BlockSize] {
		if i >= sumOff && i < sumOff+sumLen {
			c = ' '
		}
		total += int64(int8(c)) //nolint:gosec // G115: signed on purpose
	}
	return total
}

// cstring cuts a field at its first zero byte.
func cstring(b []byte) string {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	return string(b)
}

// numbers parses numeric fields and keeps the first error.
type numbers struct{ err error }

// field parses octal digits surrounded by optional spaces and zero bytes, or
// the base-256 form that GNU tar and star use for numbers too large for octal.
// what names the field in the error.
func (p *numbers) field(what string, b []byte) int64 {
	if b[0]&0x80 != 0 {
		return p.base256(what, b)
	}
	rest := bytes.TrimLeft(b, " \x00")
	var n int64
	for i, c := range rest {
		if c == ' ' || c == 0 {
			break
		}
		if c < '0' || c > '7' || n > 1<<59 {
			p.fail(what, rest[i:])
			return 0
		}
		n = n<<3 | int64(c-'0')
	}
	return n
}

// base256 parses a big-endian two's complement number, whose top bit only marks
// the base-256 form.
func (p *numbers) base256(what string, b []byte) int64 {
	negative := b[0]&0x40 != 0
	var n uint64
	for i, c := range b {
		if negative {
			c = ^c
		}
		if i == 0 {
			c &= 0x7f
		}
		if n>>55 != 0 {
			p.fail(what, b)
			return 0
		}
		n = n<<8 | uint64(c)
	}
	if negative {
		return ^int64(n) //nolint:gosec // G115: below 2^63, checked above
	}
	return int64(n) //nolint:gosec // G115: below 2^63, checked above
}

func (p *numbers) fail(what string, b []byte) {
	if p.err == nil {
		p.err = badf("%s field %q is not a number", what, b)
	}
}

// gnuSparseMap parses the extents of an old GNU sparse header. The header
// itself holds four; more returns the blocks after it, which hold the others.
func (h *Header) gnuSparseMap(b []byte, more func() ([]byte, error)) error {
	const perHeader, perBlock, entryLen = 4, 21, 24
	var p numbers
	h.Size = p.field("size", b[gnuRealOff:gnuRealOff+sizeLen])
	h.Sparse = true
	extended := b[gnuMoreOff] != 0
	list, count := b[gnuSparseOff:], perHeader
	for {
		for i := range count {
			e := list[i*entryLen:]
			if e[0] == 0 {
				break
			}
			h.Extents = append(h.Extents, Extent{p.field("sparse map", e[:sizeLen]), p.field("sparse map", e[sizeLen:entryLen])})
		}
		if p.err != nil || !extended {
			break
		}
		if len(h.Extents) > maxExtents {
			return tooManyExtents()
		}
		next, err := more()
		if err != nil {
			return err
		}
		list, count, extended = next, perBlock, next[perBlock*entryLen] != 0
	}
	if p.err != nil {
		return p.err
	}
	return h.checkExtents()
}

// maxExtents bounds the map of one sparse file: a million extents take 16 MiB
// of memory.
const maxExtents = 1 << 20

func tooManyExtents() error {
	return fmt.Errorf("%w: more than %d extents in a sparse file", ErrLimit, maxExtents)
}

// checkExtents verifies that a sparse map is ascending, lies within the file
// and adds up to the stored bytes. It removes empty extents, which only mark
// the end of the file.
func (h *Header) checkExtents() error {
	if h.Size < 0 || h.Stored < 0 {
		return badf("negative size")
	}
	var sum, end int64
	for _, e := range h.Extents {
		switch {
		case e.Off < end || e.Len < 0 || e.Off > h.Size || e.Len > h.Size-e.Off:
			return badf("sparse map: %d bytes at %d, the file has %d and the previous extent ends at %d", e.Len, e.Off, h.Size, end)
		case e.Len > h.Stored-sum:
			return badf("sparse map: more than the %d stored bytes", h.Stored)
		}
		end, sum = e.Off+e.Len, sum+e.Len
	}
	if sum != h.Stored {
		return badf("sparse map: extents of %d bytes, but %d bytes are stored", sum, h.Stored)
	}
	h.Extents = slices.DeleteFunc(h.Extents, func(e Extent) bool { return e.Len == 0 })
	return nil
}
