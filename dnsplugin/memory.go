package dnsplugin

import (
	"fmt"
	"math"
)

// This file compares the configured memory with the limit of the process. A
// cache that is larger would get the process killed once it is full.

// assumedMemory stands for the memory of a system that does not report it.
const assumedMemory = 64 << 30

// fitMemory returns c with a memory that fits a process which may use limit
// bytes, and warnings. It fails if maxmem is above the limit. A limit of 0 means
// that it is unknown.
func fitMemory(c Config, limit int64) (Config, []string, error) {
	known := limit > 0
	if !known {
		limit = assumedMemory
	}
	var remarks []string
	switch asked := c.askedMemory(); {
	case c.MaxMem > limit && known:
		return c, nil, fmt.Errorf("maxmem of %s: this process may use %s (the limit of its cgroup, or the machine's memory): give less, 200 MiB below that limit for example", inUnits(c.MaxMem), inUnits(limit))
	case c.MaxMem > 0 && c.MaxMem > limit/4*3 && known:
		remarks = append(remarks, fmt.Sprintf("maxmem of %s leaves little of the %s that this process may use (the limit of its cgroup, or the machine's memory): the process needs about 200 MiB in addition", inUnits(c.MaxMem), inUnits(limit)))
	case c.MaxMem == 0 && asked > limit/2:
		// CoreDNS's cache accepts any number; here it determines the memory.
		c.MaxMem = max(limit/2, MinMaxMemory)
		remarks = append(remarks, fmt.Sprintf("success %d and denial %d would take %s at 1 KiB for each entry: maxmem is %s, half of what this process may use", c.Success.Capacity, c.Denial.Capacity, inUnits(asked), inUnits(c.MaxMem)))
	}
	return c, remarks, nil
}

// askedMemory returns the memory that a full cache takes by the options of c.
func (c Config) askedMemory() int64 {
	if c.MaxMem > 0 {
		return c.MaxMem
	}
	total := int64(0)
	for _, s := range []Side{c.Success, c.Denial} {
		bytes := c.storeOptions(s).Bytes
		if bytes > math.MaxInt64-total {
			return math.MaxInt64
		}
		total += bytes
	}
	return total
}

// inUnits formats a number of bytes with a unit.
func inUnits(n int64) string {
	for _, unit := range []struct {
		shift uint
		name  string
	}{{30, "GiB"}, {20, "MiB"}} {
		if n>>unit.shift >= 1 {
			return fmt.Sprintf("%.4g %s", float64(n)/float64(int64(1)<<unit.shift), unit.name)
		}
	}
	return fmt.Sprintf("%d bytes", n)
}
