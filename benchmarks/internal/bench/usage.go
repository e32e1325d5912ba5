package bench

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// Usage is what a process and its descendants have used so far.
type Usage struct {
	// CPU is user and system time, of the living and of those they have waited for, in
	// steps of 10 ms.
	CPU time.Duration
	// Written are the bytes that were sent to storage, without those that were deleted
	// before they got there. A file system in memory does not count as storage.
	Written int64
}

// UsageOf reads the usage of the tree below a process from /proc. What can not be read,
// because it has ended, counts as nothing.
func UsageOf(pid int) Usage {
	u := Usage{CPU: treeCPU(pid)}
	for _, p := range tree(pid) {
		u.Written += written(p)
	}
	return u
}

// Tree returns a process, first, and its living descendants.
func Tree(pid int) []int { return tree(pid) }

// HWM is the high-water mark of the resident set of a process in bytes; 0 when it has
// ended.
func HWM(pid int) int64 { return statusField(pid, "VmHWM:") }

// written is write_bytes less cancelled_write_bytes of /proc/PID/io. The children that
// a process has waited for are in its own figure.
func written(pid int) int64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", pid))
	if err != nil {
		return 0
	}
	var sum int64
	for line := range strings.Lines(string(b)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		n, err := strconv.ParseInt(value, 10, 64)
		switch {
		case err != nil:
		case name == "write_bytes":
			sum += n
		case name == "cancelled_write_bytes":
			sum -= n
		}
	}
	return sum
}
