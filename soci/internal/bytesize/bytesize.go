// Package bytesize reads numbers of bytes as people write them on a command line.
//
//	n, err := bytesize.Parse("64MiB") // 67108864
//
// A kilobyte has 1024 bytes here, whatever the unit is called: what is sized so is
// memory. Not done here: fractions, and printing.
package bytesize

import (
	"errors"
	"math"
	"strconv"
	"strings"
)

// ParseOrNone is Parse, and -1 for "none".
func ParseOrNone(s string) (int64, error) {
	if s == "none" {
		return -1, nil
	}
	return Parse(s)
}

// Parse reads a number of bytes with an optional unit: K, M, G as powers of
// 1024, with or without "iB" or "B".
func Parse(s string) (int64, error) {
	digits := strings.TrimRight(s, "KMGTiBkmgtb ")
	unit := strings.ToUpper(strings.TrimSpace(s[len(digits):]))
	unit = strings.TrimSuffix(strings.TrimSuffix(unit, "B"), "I")
	n, err := strconv.ParseInt(digits, 10, 64)
	shift := map[string]int{"": 0, "K": 10, "M": 20, "G": 30, "T": 40}
	by, ok := shift[unit]
	if err != nil || !ok || n <= 0 || n > math.MaxInt64>>by {
		return 0, errors.New("want a number of bytes, for example 67108864 or 64MiB")
	}
	return n << by, nil
}
