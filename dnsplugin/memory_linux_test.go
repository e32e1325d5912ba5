package dnsplugin

import (
	"math"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

func TestMemoryIsComparedWithWhatTheProcessMayUse(t *testing.T) {
	const gib = 1 << 30
	for _, tt := range []struct {
		what   string
		cfg    Config
		limit  int64
		maxmem int64
		remark string
		err    string
	}{
		{"defaults", Config{}, gib, 0, "", ""},
		{"defaults on a small machine", Config{}, 40 << 20, 20 << 20, "half of what this process may use", ""},
		{"as documented", Config{MaxMem: 512 << 20}, 712 << 20, 512 << 20, "", ""},
		{"tight", Config{MaxMem: 900 << 20}, gib, 900 << 20, "leaves little of the 1 GiB", ""},
		{"more than there is", Config{MaxMem: 900 * gib}, 16 * gib, 0, "", "maxmem of 900 GiB: this process may use 16 GiB"},
		{"more than there may be", Config{MaxMem: 900 * gib}, 0, 900 * gib, "", ""},
		{"CoreDNS's default", Config{Success: Side{Capacity: 9984}, Denial: Side{Capacity: 9984}}, 170 << 20, 0, "", ""},
		{"a number that CoreDNS takes", Config{Success: Side{Capacity: 99999999999}}, 16 * gib, 8 * gib, "success 99999999999", ""},
		{"the largest number", Config{Success: Side{Capacity: math.MaxInt}, Denial: Side{Capacity: math.MaxInt}}, 0, 32 * gib, "half of what", ""},
	} {
		got, remarks, err := fitMemory(tt.cfg, tt.limit)
		if tt.err != "" {
			if err == nil || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("%s: %v", tt.what, err)
			}
			continue
		}
		if err != nil || got.MaxMem != tt.maxmem || (tt.remark == "") != (len(remarks) == 0) || !strings.Contains(strings.Join(remarks, ""), tt.remark) {
			t.Errorf("%s: maxmem %d, %q, %v", tt.what, got.MaxMem, remarks, err)
		}
	}
}

// A huge capacity does not exhaust the memory: tables are sized by maxmem.
func TestHugeCapacityStarts(t *testing.T) {
	cfg, _, err := fitMemory(Config{Success: Side{Capacity: 99999999999}}, 256<<20)
	if err != nil {
		t.Fatal(err)
	}
	c, err := newCache("penstock", cfg, prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got := c.sides.Success.Store.Bytes() + c.sides.Denial.Store.Bytes(); got > 128<<20 {
		t.Errorf("%d bytes of tables", got)
	}
}

func TestMemoryLimitIsFound(t *testing.T) {
	for what, tt := range map[string]struct {
		files map[string]string
		want  int64
	}{
		"nothing":   {nil, 0},
		"machine":   {map[string]string{"proc/meminfo": "MemFree: 1 kB\nMemTotal:   1048576 kB\n"}, 1 << 30},
		"v2":        {map[string]string{"proc/meminfo": "MemTotal: 1048576 kB\n", "proc/self/cgroup": "0::/pod/c\n", "sys/fs/cgroup/pod/c/memory.max": "max\n", "sys/fs/cgroup/pod/memory.max": "1000\n"}, 1000},
		"container": {map[string]string{"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "2000\n"}, 2000},
		"v1":        {map[string]string{"proc/self/cgroup": "4:memory:/c\n", "sys/fs/cgroup/memory/c/memory.limit_in_bytes": "3000\n"}, 3000},
	} {
		root := t.TempDir()
		for name, text := range tt.files {
			path := filepath.Join(root, name)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if got := memoryLimit(root); got != tt.want {
			t.Errorf("%s: %d, want %d", what, got, tt.want)
		}
	}
	if memoryLimit("/") <= 0 {
		t.Error("this machine's is unknown")
	}
}

func TestBuildOfReadsTheBuildInfo(t *testing.T) {
	setting := func(kv ...string) (all []debug.BuildSetting) {
		for i := 0; i < len(kv); i += 2 {
			all = append(all, debug.BuildSetting{Key: kv[i], Value: kv[i+1]})
		}
		return all
	}
	for _, tt := range []struct {
		what            string
		info            *debug.BuildInfo
		version, commit string
	}{
		{"none", nil, unrecorded, ""},
		{"in our tree", &debug.BuildInfo{Main: debug.Module{Path: modulePath, Version: "(devel)"}, Settings: setting("vcs.revision", "0123456789abcdef", "vcs.modified", "true")}, unrecorded, "0123456789ab+dirty"},
		{"go install", &debug.BuildInfo{Main: debug.Module{Path: modulePath, Version: "v1.2.3"}}, "v1.2.3", ""},
		{"in another program", &debug.BuildInfo{Main: debug.Module{Path: "example.org/dns", Version: "v9"}, Settings: setting("vcs.revision", "ff"), Deps: []*debug.Module{{Path: modulePath, Version: "v1.2.3"}}}, "v1.2.3", ""},
		{"replaced", &debug.BuildInfo{Main: debug.Module{Path: "example.org/dns"}, Deps: []*debug.Module{{Path: modulePath, Version: "v1.2.3", Replace: &debug.Module{Path: "../here"}}}}, unrecorded, ""},
	} {
		if version, commit := buildOf(tt.info); version != tt.version || commit != tt.commit {
			t.Errorf("%s: %q %q", tt.what, version, commit)
		}
	}
	reg := prometheus.NewRegistry()
	if err := publishBuild(reg); err != nil {
		t.Fatal(err)
	}
	families, err := reg.Gather()
	if err != nil || len(families) != 1 || families[0].GetName() != "coredns_penstock_build_info" || families[0].Metric[0].Gauge.GetValue() != 1 {
		t.Errorf("%v %v", families, err)
	}
}
