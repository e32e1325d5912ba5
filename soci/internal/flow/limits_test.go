package flow

import (
	"cmp"
	"errors"
	"strings"
	"testing"

	"github.com/penstock/penstock/soci/internal/untar"
)

// TestExpansion checks layers by their ratio, their size and the free disk.
func TestExpansion(t *testing.T) {
	t.Parallel()
	const gib = 1 << 30
	for name, c := range map[string]struct {
		limits                Limits
		compressed, tar, free int64
		want                  string // in the error; empty: the layer is fine
	}{
		"ordinary":                               {Limits{}, 1 * gib, 3 * gib, 0, ""},
		"a disk image of 600 MiB of zeros, gzip": {Limits{}, 610_000, 600 * mib, 100 * gib, ""},
		"the same, zstd":                         {Limits{}, 19_000, 600 * mib, 100 * gib, ""},
		"the same on a small disk":               {Limits{}, 610_000, 600 * mib, 3 * gib, "384 MiB (default of limit RatioFree with 3072 MiB of disk free)"},
		"at the floor on a full disk":            {Limits{}, 1000, 256 * mib, 0, ""},
		"above the floor on a full disk":         {Limits{}, 1000, 256*mib + 1, 0, "more than 256 MiB"},
		"free disk unknown":                      {Limits{}, 1000, 257 * mib, -1, "more than 256 MiB (default of limit RatioFree)"},
		"an enormous disk":                       {Limits{}, 1 * mib, 17 * gib, 1 << 50, "more than 16384 MiB"},
		"ratio off":                              {Limits{Ratio: -1}, 1, 1 << 40, 0, ""},
		"no limit of what is free":               {Limits{RatioFree: -1}, 1, 1 << 40, 0, ""},
		"own ratio":                              {Limits{Ratio: 2}, 1 * gib, 3 * gib, 8 * gib, "more than 2 times (limit Ratio), to more than 1024 MiB"},
		"own size":                               {Limits{RatioFree: mib}, 1000, 2 * mib, 100 * gib, "more than 1 MiB (limit RatioFree)"},
	} {
		c.limits.Ratio = cmp.Or(c.limits.Ratio, 250) // the default of soci.Limits
		err := c.limits.checkExpansion(c.compressed, c.tar, c.free)
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case c.want != "" && (!errors.Is(err, untar.ErrLimit) || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}
