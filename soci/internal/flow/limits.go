package flow

import (
	"fmt"

	"github.com/penstock/penstock/soci/internal/untar"
)

const (
	mib = 1 << 20

	// Bounds of the default of Limits.RatioFree. 256 MiB are inflated in a
	// second; 16 GiB of zeros take one processor about a minute and a half.
	minRatioFree, maxRatioFree = 256 * mib, 16 << 30
	// ratioFreeShare divides the free disk, so that one layer may take an
	// eighth whatever its ratio. Concurrent layers do not fill the disk
	// together, because each share is computed from the bytes that are free at
	// that time.
	ratioFreeShare = 8
)

// Limits bound the memory and the expansion of a layer.
type Limits struct {
	// Window bounds the history of a zstd frame, in bytes.
	Window int64
	// Ratio bounds the tar bytes per compressed byte, beyond RatioFree.
	// Negative: no limit.
	Ratio float64
	// RatioFree is the number of tar bytes that a layer may have whatever its
	// ratio. 0 is computed from the free disk. Negative: no limit.
	RatioFree int64
}

// ratioFree returns the tar bytes that a layer may have whatever its ratio,
// given the free bytes of its disk. free is negative if it is unknown.
func (l Limits) ratioFree(free int64) int64 {
	if l.RatioFree != 0 {
		return l.RatioFree
	}
	return min(max(free/ratioFreeShare, minRatioFree), maxRatioFree)
}

// beyondRatio reports whether a layer expands more than Ratio times.
func (l Limits) beyondRatio(compressed, tar int64) bool {
	return l.Ratio >= 0 && float64(tar) > l.Ratio*float64(compressed)
}

// checkExpansion fails if a layer of this many compressed bytes must not expand
// to this many tar bytes. free is the number of free bytes of its disk, or
// negative if unknown.
func (l Limits) checkExpansion(compressed, tar, free int64) error {
	if !l.beyondRatio(compressed, tar) {
		return nil
	}
	most := l.ratioFree(free)
	if most < 0 || tar <= most {
		return nil
	}
	why := "limit RatioFree"
	if l.RatioFree == 0 {
		why = "default of limit RatioFree"
		if free >= 0 {
			why += fmt.Sprintf(" with %d MiB of disk free", free/mib)
		}
	}
	return fmt.Errorf("%w: layer expands more than %g times (limit Ratio), to more than %d MiB (%s): raise one of the two if the image is trusted",
		untar.ErrLimit, l.Ratio, most/mib, why)
}
