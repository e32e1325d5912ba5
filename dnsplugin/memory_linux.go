package dnsplugin

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// memoryLimit returns how much memory this process may use, which is the
// smallest of the machine's memory and the limits of its cgroups, or 0 if it
// cannot be determined.
// root is "/" except in tests.
func memoryLimit(root string) (least int64) {
	lower := func(n int64) {
		if n > 0 && (least == 0 || n < least) {
			least = n
		}
	}
	read := func(name string) string {
		b, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			return ""
		}
		return string(b)
	}
	for line := range strings.Lines(read("proc/meminfo")) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "MemTotal:" {
			kib, _ := strconv.ParseInt(f[1], 10, 64) // 0 if unknown
			lower(kib << 10)
		}
	}
	const mount = "sys/fs/cgroup"
	limit := func(name string) {
		n, _ := strconv.ParseInt(strings.TrimSpace(read(name)), 10, 64) // 0 for "max" or no file
		lower(n)
	}
	for line := range strings.Lines(read("proc/self/cgroup")) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(f) != 3 {
			continue
		}
		for dir := filepath.Clean("/" + f[2]); ; dir = filepath.Dir(dir) {
			switch {
			case f[0] == "0":
				limit(filepath.Join(mount, dir, "memory.max"))
			case strings.Contains(f[1], "memory"):
				limit(filepath.Join(mount, "memory", dir, "memory.limit_in_bytes"))
			}
			if dir == "/" {
				break
			}
		}
	}
	// The path in a container with a cgroup namespace of its own.
	limit(filepath.Join(mount, "memory.max"))
	limit(filepath.Join(mount, "memory", "memory.limit_in_bytes"))
	return least
}
