package bench

import (
	"bytes"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"
)

// Machine describes the machine of a result.
type Machine struct {
	CPU      string    `json:"cpu"`
	Cores    int       `json:"cores"`
	MemBytes int64     `json:"mem_bytes"`
	Kernel   string    `json:"kernel"`
	Go       string    `json:"go"`
	Load     string    `json:"load_before"` // 1, 5 and 15 minutes, before the first run
	Commit   string    `json:"commit"`
	Dirty    bool      `json:"dirty"` // the tree had uncommitted changes
	Date     time.Time `json:"date"`
}

// ThisMachine describes the machine and the commit of the working folder.
func ThisMachine() Machine {
	m := Machine{
		CPU:    "unknown",
		Cores:  runtime.NumCPU(),
		Kernel: runtime.GOOS + " " + firstLine("/proc/sys/kernel/osrelease"),
		Go:     runtime.Version() + " " + runtime.GOOS + "/" + runtime.GOARCH,
		Load:   strings.Join(firstN(strings.Fields(firstLine("/proc/loadavg")), 3), " "),
		Commit: "none",
		Date:   time.Now().UTC(),
	}
	if v, ok := procField("/proc/cpuinfo", "model name"); ok {
		m.CPU = v
	}
	if v, ok := procField("/proc/meminfo", "MemTotal"); ok {
		m.MemBytes = kib(v)
	}
	if out, err := exec.Command("git", "rev-parse", "--short=8", "HEAD").Output(); err == nil {
		m.Commit = strings.TrimSpace(string(out))
		out, err = exec.Command("git", "status", "--porcelain", "--untracked-files=no").Output()
		m.Dirty = err == nil && len(bytes.TrimSpace(out)) > 0
	}
	return m
}

func kib(v string) int64 {
	var n int64
	for _, c := range v {
		if c < '0' || c > '9' {
			break
		}
		n = n*10 + int64(c-'0')
	}
	return n << 10
}

func firstLine(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	line, _, _ := strings.Cut(string(b), "\n")
	return line
}

func firstN(s []string, n int) []string { return s[:min(n, len(s))] }

// procField returns the first "name : value" of a /proc file.
func procField(path, name string) (string, bool) {
	b, err := os.ReadFile(path)
	if err != nil {
		return "", false
	}
	for line := range strings.SplitSeq(string(b), "\n") {
		k, v, ok := strings.Cut(line, ":")
		if ok && strings.TrimSpace(k) == name {
			return strings.TrimSpace(v), true
		}
	}
	return "", false
}
