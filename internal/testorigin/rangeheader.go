package testorigin

import (
	"strconv"
	"strings"
)

// byteRange is the result of a Range header for an object of a known size.
type byteRange struct {
	off, n int64
	kind   rangeKind
}

type rangeKind int

const (
	rangeNone          rangeKind = iota // no header, or one that must be ignored: answer 200
	rangePartial                        // answer 206
	rangeUnsatisfiable                  // answer 416
)

// parseRange reads a Range header as S3 does: exactly one range of bytes. All
// other values (other units, several ranges, last before first) are ignored, as
// RFC 9110 section 14.2 allows.
func parseRange(h string, size int64) byteRange {
	whole := byteRange{0, size, rangeNone}
	spec, ok := strings.CutPrefix(h, "bytes=")
	if !ok {
		return whole
	}
	first, last, ok := strings.Cut(strings.TrimSpace(spec), "-")
	if !ok {
		return whole
	}
	if first == "" { // suffix: the last n bytes
		n, ok := parseDigits(last)
		switch {
		case !ok:
			return whole
		case n == 0 || size == 0:
			return byteRange{kind: rangeUnsatisfiable}
		}
		n = min(n, size)
		return byteRange{size - n, n, rangePartial}
	}
	off, ok := parseDigits(first)
	if !ok {
		return whole
	}
	end := size - 1
	if last != "" {
		end, ok = parseDigits(last)
		if !ok || end < off {
			return whole
		}
	}
	if off >= size {
		return byteRange{kind: rangeUnsatisfiable}
	}
	end = min(end, size-1)
	return byteRange{off, end - off + 1, rangePartial}
}

// parseDigits is strconv.ParseInt without signs; a number too large for an
// int64 counts as the largest.
func parseDigits(s string) (int64, bool) {
	if s == "" {
		return 0, false
	}
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
	}
	n, _ := strconv.ParseInt(s, 10, 64) // on overflow n is MaxInt64, as wanted
	return n, true
}

func contentRange(off, n, size int64) string {
	b := append([]byte("bytes "), strconv.FormatInt(off, 10)...)
	b = append(b, '-')
	b = strconv.AppendInt(b, off+n-1, 10)
	b = append(b, '/')
	return string(strconv.AppendInt(b, size, 10))
}
