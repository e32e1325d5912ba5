package untar

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
)

// Types of entries, in the header's own letters (POSIX pax, GNU tar).
const (
	typeFile       = '0'
	typeFileOld    = '\x00' // version 7
	typeHardLink   = '1'
	typeSymlink    = '2'
	typeChar       = '3'
	typeBlock      = '4'
	typeDir        = '5'
	typeFifo       = '6'
	typeContiguous = '7' // a regular file wherever that means nothing
	typePax        = 'x' // describes the next entry
	typePaxGlobal  = 'g' // describes all following entries
	typeGNUName    = 'L' // the next entry's name
	typeGNULink    = 'K' // the next entry's link target
	typeGNUSparse  = 'S'
	typeGNUDumpDir = 'D' // a directory with a list of names
)

// sector is the unit of an archive in bytes: of headers and of padding.
const sector = 512

// stamp is a time as archives have it: seconds since 1970 (also negative) and
// nanoseconds, 0 <= nsec < 1e9.
type stamp struct{ sec, nsec int64 }

// attr is an extended attribute.
type attr struct{ name, value string }

// extent is a piece of a sparse file that the archive holds.
type extent struct{ off, n int64 }

// header describes one entry.
type header struct {
	name, link   string
	flag         byte
	mode         int64
	uid, gid     int64
	stored       int64 // bytes of content in the archive
	size         int64 // bytes of the file; differs from stored when sparse
	mtime, atime stamp
	major, minor int64
	attrs        []attr // last wins
	sparse       bool
	extents      []extent // ascending, sum of n == stored
}

// isRegular reports whether the entry is a file with content.
func (h *header) isRegular() bool {
	switch h.flag {
	case typeFile, typeFileOld, typeContiguous, typeGNUSparse:
		return true
	}
	return false
}

// hasContent reports whether content follows the header. Directories, links and
// devices have none whatever their size says (POSIX; what follows is a header).
func (h *header) hasContent() bool {
	switch h.flag {
	case typeHardLink, typeSymlink, typeChar, typeBlock, typeDir, typeFifo:
		return false
	}
	return true
}

// badf is an ErrFormat with a text.
func badf(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrFormat, fmt.Sprintf(format, args...))
}

// Fields of a header block, offset and length in bytes.
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
	starPrefixLen        = 131 // star keeps times behind it
	starMagicOff         = 508
	gnuTimeLen           = 12 // atime and ctime, where POSIX has the prefix
	gnuSparseOff         = 386
	gnuMoreOff           = 482
	gnuRealOff           = 483
)

// parseHeader reads one header block into h, which is overwritten.
func parseHeader(b []byte, h *header) error {
	if err := checksum(b); err != nil {
		return err
	}
	*h = header{
		flag: b[flagOff],
		name: cstring(b[nameOff : nameOff+nameLen]),
		link: cstring(b[linkOff : linkOff+linkLen]),
	}
	var p numbers
	h.mode = p.field("mode", b[modeOff:modeOff+modeLen])
	h.uid = p.field("owner", b[uidOff:uidOff+uidLen])
	h.gid = p.field("group", b[gidOff:gidOff+gidLen])
	h.stored = p.field("size", b[sizeOff:sizeOff+sizeLen])
	h.mtime.sec = p.field("time", b[mtimeOff:mtimeOff+mtimeLen])
	h.atime = h.mtime
	if (h.flag == typeChar || h.flag == typeBlock) && string(b[magicOff:magicOff+5]) == "ustar" { // version 7 has none
		h.major = p.field("device", b[majorOff:majorOff+majorLen])
		h.minor = p.field("device", b[minorOff:minorOff+minorLen])
	}
	h.size = h.stored
	if prefix := prefixOf(b); prefix != "" {
		h.name = prefix + "/" + h.name
	}
	return p.err
}

// prefixOf returns what belongs before the name, by the dialect of the header.
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
		// GNU has times here. Go before 1.8 wrote a prefix nevertheless, and old images
		// have such layers: what can not be times is a prefix, exactly as archive/tar
		// decides it, so that a layer has the same names here and in containerd. (GNU tar
		// never looks for a prefix here; nor does it write what is taken for one.)
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

// isGNUTime reports whether archive/tar takes a field for a time: nothing, a number of
// base 256, or octal digits alone between spaces and zero bytes.
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

// checksum compares a header's sum with the sum of its bytes, the field itself
// read as spaces. Ancient tars added up signed bytes.
func checksum(b []byte) error {
	var p numbers
	want := p.field("checksum", b[sumOff:sumOff+sumLen])
	if p.err == nil && (want == unsignedSum(b) || want == signedSum(b)) {
		return nil
	}
	return badf("invalid tar header: wrong checksum")
}

// unsignedSum adds the bytes of a header, eight at a time in four 16-bit lanes: 64
// words of at most 2*255 for each lane do not overflow one.
func unsignedSum(b []byte) int64 {
	const lanes = 0x00ff00ff00ff00ff
	var sum uint64
	for i := 0; i < sector; i += 8 {
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
	for i, c := range b[:sector] {
		if i >= sumOff && i < sumOff+sumLen {
			c = ' '
		}
		total += int64(int8(c)) //nolint:gosec // signed on purpose
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

// numbers reads numeric fields and keeps the first failure.
type numbers struct{ err error }

// field reads octal digits between optional spaces and zero bytes, or the base-256
// form of GNU and star for what octal can not hold.
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

// base256 is big-endian two's complement, without the bit that marks the form.
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
		return ^int64(n) //nolint:gosec // below 2^63, see above
	}
	return int64(n) //nolint:gosec // below 2^63, see above
}

func (p *numbers) fail(what string, b []byte) {
	if p.err == nil {
		p.err = badf("%s field %q is no number", what, b)
	}
}

// gnuSparseMap reads the extents of an old GNU sparse header: four in the header,
// more in blocks that follow it, for which more is called.
func (h *header) gnuSparseMap(b []byte, more func() ([]byte, error)) error {
	const perHeader, perBlock, entryLen = 4, 21, 24
	var p numbers
	h.size = p.field("size", b[gnuRealOff:gnuRealOff+sizeLen])
	h.sparse = true
	extended := b[gnuMoreOff] != 0
	list, count := b[gnuSparseOff:], perHeader
	for {
		for i := range count {
			e := list[i*entryLen:]
			if e[0] == 0 {
				break
			}
			h.extents = append(h.extents, extent{p.field("sparse map", e[:sizeLen]), p.field("sparse map", e[sizeLen:entryLen])})
		}
		if p.err != nil || !extended {
			break
		}
		if len(h.extents) > maxExtents {
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

// maxExtents bounds the map of one sparse file: a million holes, 16 MiB of memory.
const maxExtents = 1 << 20

func tooManyExtents() error {
	return fmt.Errorf("%w: more than %d pieces in a sparse file", ErrLimit, maxExtents)
}

// checkExtents makes sure that a sparse map is ascending, fits the file and
// matches what is stored. Empty pieces, which only mark the end, are dropped.
func (h *header) checkExtents() error {
	if h.size < 0 || h.stored < 0 {
		return badf("negative size")
	}
	var sum, end int64
	for _, e := range h.extents {
		switch {
		case e.off < end || e.n < 0 || e.off > h.size || e.n > h.size-e.off:
			return badf("sparse map: %d bytes at %d, the file has %d and the piece before ends at %d", e.n, e.off, h.size, end)
		case e.n > h.stored-sum:
			return badf("sparse map: more than the %d bytes that are stored", h.stored)
		}
		end, sum = e.off+e.n, sum+e.n
	}
	if sum != h.stored {
		return badf("sparse map: %d bytes, %d are stored", sum, h.stored)
	}
	h.extents = slices.DeleteFunc(h.extents, func(e extent) bool { return e.n == 0 })
	return nil
}
