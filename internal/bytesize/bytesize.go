// Package bytesize reads and prints sizes in bytes. It is the one grammar of
// sizes that every Penstock program, flag and fault script uses.
//
//	n, err := bytesize.Parse("64MiB") // 67108864
//
// A size is a whole number with an optional unit:
//
//	(none), B                  bytes
//	KB,  MB,  GB,  TB          powers of 1000: 64MB is 64,000,000 bytes
//	KiB, MiB, GiB, TiB         powers of 1024: 64MiB is 67,108,864 bytes
//	K,   M,   G,   T           powers of 1024, as in the GNU core utilities
//
// The case of a unit does not matter, and blanks may separate it from the
// number. Fractions, signs and larger units are errors. The functions are pure
// and safe for concurrent use.
//
// The Corefile is the exception: there KB means KiB, as CoreDNS users expect.
package bytesize

import (
	"errors"
	"math"
	"strconv"
	"strings"
)

var (
	errSyntax = errors.New("want a number of bytes with an optional unit, for example 64MiB (binary) or 64MB (decimal)")
	errRange  = errors.New("the size exceeds 8 EiB")
	errZero   = errors.New("want at least 1 byte, for example 64MiB")
)

const (
	binary  = 1024
	decimal = 1000
	kinds   = "KMGT" // powers 1 to 4
)

// Parse returns the number of bytes that s names. Zero is a valid size.
func Parse(s string) (int64, error) {
	digits := strings.TrimRight(s, "KMGTIBkmgtib ")
	base, power, ok := unit(strings.ToUpper(strings.TrimSpace(s[len(digits):])))
	if !ok || strings.HasPrefix(digits, "+") || strings.HasPrefix(digits, "-") {
		return 0, errSyntax
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if errors.Is(err, strconv.ErrRange) {
		return 0, errRange
	}
	if err != nil {
		return 0, errSyntax
	}
	for range power {
		if n > math.MaxInt64/base {
			return 0, errRange
		}
		n *= base
	}
	return n, nil
}

// ParsePositive is Parse for sizes of at least one byte.
func ParsePositive(s string) (int64, error) {
	n, err := Parse(s)
	if err == nil && n == 0 {
		return 0, errZero
	}
	return n, err
}

// ParseOrNone is ParsePositive, except that "none" returns -1, the value that
// switches a limit off in options.
func ParseOrNone(s string) (int64, error) {
	if s == "none" {
		return -1, nil
	}
	return ParsePositive(s)
}

// Format returns n with the largest binary unit that divides it, in the form
// that Parse reads: 67108864 is "64MiB", and 1000 is "1000".
func Format(n int64) string {
	power := 0
	for n != 0 && n%binary == 0 && power < len(kinds) {
		n, power = n/binary, power+1
	}
	s := strconv.FormatInt(n, 10)
	if power > 0 {
		s += kinds[power-1:power] + "iB"
	}
	return s
}

// unit splits an upper-case unit into a base and a power.
func unit(s string) (base int64, power int, ok bool) {
	if s == "" || s == "B" {
		return 1, 0, true
	}
	power = strings.Index(kinds, s[:1]) + 1
	switch s[1:] {
	case "", "IB":
		base = binary
	case "B":
		base = decimal
	}
	return base, power, base > 0 && power > 0
}
