// Package limits parses the limits of an image from a command line.
//
//	var l soci.Limits
//	err := limits.Parse("size=2TiB,ratio=none", &l)
//
// The names are the fields of [soci.Limits] in lower case. Numbers of bytes may
// have a unit, and "none" means no limit. Parse leaves unnamed limits
// unchanged; [soci.Options] sets their defaults.
package limits

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/penstock/penstock/internal/bytesize"
	"github.com/penstock/penstock/soci"
)

// Names lists the limits, for help and errors.
const Names = "entries, depth, namelen, size, attributes, metadata, window, ratio, ratiofree"

// Parse sets the fields of l that a comma-separated list of name=value pairs
// names.
func Parse(list string, l *soci.Limits) error {
	for pair := range strings.SplitSeq(list, ",") {
		name, value, ok := strings.Cut(pair, "=")
		if !ok {
			return fmt.Errorf("limit %q: want name=value, for example size=2TiB", pair)
		}
		if err := set(strings.TrimSpace(name), strings.TrimSpace(value), l); err != nil {
			return fmt.Errorf("limit %s: %w", strings.TrimSpace(pair), err)
		}
	}
	return nil
}

func set(name, value string, l *soci.Limits) (err error) {
	switch name {
	case "entries":
		l.Entries, err = count(value, math.MaxInt64)
	case "depth":
		var n int64
		n, err = count(value, math.MaxInt32)
		l.Depth = int(n)
	case "namelen":
		var n int64
		n, err = count(value, math.MaxInt32)
		l.NameLen = int(n)
	case "size":
		l.TotalSize, err = bytesize.ParseOrNone(value)
	case "attributes":
		l.Attributes, err = bytesize.ParseOrNone(value)
	case "metadata":
		l.Metadata, err = bytesize.ParseOrNone(value)
	case "window":
		l.Window, err = bytesize.ParseOrNone(value)
	case "ratio":
		l.Ratio, err = ratio(value)
	case "ratiofree":
		l.RatioFree, err = bytesize.ParseOrNone(value)
	default:
		return errors.New("there are " + Names)
	}
	return err
}

// count parses a number from 1 to most, or the word none.
func count(s string, most int64) (int64, error) {
	if s == "none" {
		return -1, nil
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n <= 0 || n > most {
		return 0, fmt.Errorf("want a number from 1 to %d, or none", most)
	}
	return n, nil
}

func ratio(s string) (float64, error) {
	if s == "none" {
		return -1, nil
	}
	r, err := strconv.ParseFloat(s, 64)
	if err != nil || r < 1 || math.IsInf(r, 0) || math.IsNaN(r) {
		return 0, errors.New("want a number of 1 or more, or none")
	}
	return r, nil
}
