package budget

import (
	"bufio"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

const (
	// minDefault is enough for a few readers with two parts and a hedge each.
	// Below it ranges aren't fetched in parallel.
	minDefault = 64 << 20
	// maxDefault buffers 300 ms at 100 Gbit/s. The other memory belongs to the
	// training job.
	maxDefault = 4 << 30
	// fraction is the divisor of the memory limit: data in flight may take a
	// quarter of it by default.
	fraction = 4
)

// DefaultLimit returns a quarter of the memory that this process may use, at least
// 64 MiB and at most 4 GiB. That memory is the smallest limit of its cgroup and
// the ancestors (version 1 or 2), or the machine's memory.
func DefaultLimit() int64 {
	return defaultLimit("/")
}

func defaultLimit(root string) int64 {
	m := memoryLimit(root)
	if m <= 0 {
		return minDefault
	}
	return min(max(m/fraction, minDefault), maxDefault)
}

// memoryLimit returns the number of bytes that this process may use, or 0 if that
// is unknown. root is "/" except in tests.
func memoryLimit(root string) int64 {
	best := memTotal(filepath.Join(root, "proc/meminfo"))
	for _, f := range cgroupFiles(root) {
		if v := readBytes(f); v > 0 && (best == 0 || v < best) {
			best = v
		}
	}
	return best
}

// cgroupFiles lists the memory limit files of this process: the files of its cgroup
// and of every ancestor, and the files at the mount, which are the only ones in a
// container with a private cgroup namespace.
func cgroupFiles(root string) []string {
	var files []string
	v2 := filepath.Join(root, "sys/fs/cgroup")
	v1 := filepath.Join(v2, "memory")
	data, _ := os.ReadFile(filepath.Join(root, "proc/self/cgroup"))
	for line := range strings.Lines(string(data)) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(f) != 3 {
			continue
		}
		for dir := filepath.Clean("/" + f[2]); ; dir = filepath.Dir(dir) {
			switch {
			case f[0] == "0":
				files = append(files, filepath.Join(v2, dir, "memory.max"))
			case strings.Contains(f[1], "memory"):
				files = append(files, filepath.Join(v1, dir, "memory.limit_in_bytes"))
			}
			if dir == "/" {
				break
			}
		}
	}
	return append(files, filepath.Join(v2, "memory.max"), filepath.Join(v1, "memory.limit_in_bytes"))
}

// readBytes reads a number of bytes, or 0 if the file is absent or has "max".
func readBytes(file string) int64 {
	data, err := os.ReadFile(file)
	if err != nil {
		return 0
	}
	v, err := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
	if err != nil {
		return 0
	}
	return v
}

func memTotal(file string) int64 {
	f, err := os.Open(file)
	if err != nil {
		return 0
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if rest, ok := strings.CutPrefix(s.Text(), "MemTotal:"); ok {
			kb, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
			if err != nil {
				return 0
			}
			return kb << 10
		}
	}
	return 0
}
