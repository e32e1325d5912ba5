package dnsplugin

import (
	"fmt"
	"math"
)

// What is configured is compared with what the process may use when it starts:
// a cache that is larger ends it some day, when it is full.

// assumedMemory is taken for the memory of a system that doesn't tell.
const assumedMemory = 64 << 30

// fitMemory says what is wrong with the memory of c where the process may use
// limit bytes (0: unknown). It returns c with capacities that fit, and remarks.
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
		remarks = append(remarks, fmt.Sprintf("maxmem of %s leaves little of the %s that this process may use (the limit of its cgroup, or the machine's memory): the process needs about 200 MiB beside it", inUnits(c.MaxMem), inUnits(limit)))
	case c.MaxMem == 0 && asked > limit/2:
		// CoreDNS's cache takes any number; here it stands for memory.
		c.MaxMem = max(limit/2, MinMaxMemory)
		remarks = append(remarks, fmt.Sprintf("success %d and denial %d would take %s at 1 KiB for each entry: maxmem is %s, half of what this process may use", c.Success.Capacity, c.Denial.Capacity, inUnits(asked), inUnits(c.MaxMem)))
	}
	return c, remarks, nil
}

// askedMemory is what c takes when it is full, as far as it was asked for.
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

// inUnits prints a number of bytes for people.
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
