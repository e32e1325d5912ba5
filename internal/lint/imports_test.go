package lint

import (
	"slices"
	"strings"
	"testing"
)

// units are the places of the import graph and what each may import of this
// module, besides itself and what lies below itself. The longest prefix wins.
//
// THIS TABLE IS THE ARCHITECTURE. Do not add a line to make a build pass: an
// arrow that is missing here means that the consumer should declare an
// interface, or that code sits in the wrong place.
var units = map[string][]string{
	// leaves
	"internal/invariants": {},
	"internal/budget":     {"internal/invariants"},
	"internal/nic":        {"internal/invariants"},
	"internal/version":    {},
	"internal/printable":  {},
	"internal/bytesize":   {},
	"internal/crc":        {},
	"internal/disk":       {},
	"internal/redact":     {},

	// engine: handed a Source, it knows no protocol
	"internal/ranges": {"internal/budget", "internal/crc", "internal/invariants"},

	// protocol
	"internal/httprange": {"internal/ranges", "internal/budget", "internal/nic", "internal/invariants", "internal/printable"},
	"internal/s3":        {"internal/httprange", "internal/ranges", "internal/budget", "internal/crc", "internal/nic", "internal/invariants", "internal/printable", "internal/redact"},

	// public, never sideways; S3 has no part in images
	"soci":      {"soci/internal/tarfile", "internal/bytesize", "internal/httprange", "internal/ranges", "internal/budget", "internal/crc", "internal/disk", "internal/nic", "internal/invariants", "internal/printable", "internal/redact", "internal/version"},
	"s3stream":  {"internal/s3", "internal/httprange", "internal/ranges", "internal/budget", "internal/crc", "internal/nic", "internal/invariants", "internal/printable", "internal/redact", "internal/version"},
	"csi":       {"internal/s3", "internal/httprange", "internal/ranges", "internal/budget", "internal/nic", "internal/invariants", "internal/printable", "internal/redact", "internal/version"},
	"dnsplugin": {"internal/invariants", "internal/disk"},

	// command line of all programs
	"internal/cli": {"internal/bytesize", "internal/printable", "internal/version"},

	// portable: no code that touches a file system
	"soci/internal/tarfile": {},

	// wiring: here the public packages meet
	"soci/cmd":      {"soci", "s3stream", "csi", "internal"},
	"s3stream/cmd":  {"soci", "s3stream", "csi", "internal"},
	"csi/cmd":       {"soci", "s3stream", "csi", "internal"},
	"dnsplugin/cmd": {"dnsplugin"},
	"examples":      {"soci", "s3stream", "csi", "dnsplugin"},
	"benchmarks":    {"soci", "s3stream", "csi", "dnsplugin", "internal"},

	// support of tests; see testSupport
	"internal/testorigin": {"internal/bytesize", "internal/testport"},
	"internal/testport":   {},
	"internal/netlab":     {"internal/nic"},
	"internal/dnsload":    {},
	"internal/lint":       {},
	"internal/figures":    {}, // of the documents

	"": {}, // the top folder holds build-tagged pins only
}

// testSupport may be imported by tests everywhere, by benchmarks, and by
// nothing that ships.
var testSupport = []string{"internal/testorigin", "internal/netlab", "internal/testport", "internal/dnsload", "internal/ranges/rangestest", "soci/internal/tarfile/tartest", "internal/cli/clitest", "internal/redact/redacttest"}

// leaks names what must not come into a light package even indirectly, and why.
var leaks = []struct {
	unit   string
	banned []string
	reason string
}{
	{
		"internal/ranges",
		[]string{"net/http", "github.com/aws/", "github.com/coredns/", "github.com/miekg/", "github.com/hanwen/", "github.com/containerd/", "k8s.io/", "google.golang.org/grpc"},
		"the engine is handed a Source and knows no protocol",
	},
	{
		"internal/budget",
		[]string{"net", "github.com/aws/", "github.com/coredns/", "github.com/hanwen/", "github.com/containerd/", "k8s.io/"},
		"the budget is a leaf",
	},
	{
		"internal/httprange",
		[]string{"github.com/aws/", "github.com/coredns/", "github.com/hanwen/", "github.com/containerd/", "k8s.io/"},
		"one HTTP request needs the standard library",
	},
	{
		"internal/s3",
		[]string{"github.com/coredns/", "github.com/hanwen/", "github.com/containerd/", "k8s.io/", "github.com/aws/aws-sdk-go-v2/feature/s3/"},
		"the SDK is for requests and credentials, the transfer is ours",
	},
	{
		"soci",
		[]string{"github.com/aws/", "github.com/coredns/", "k8s.io/client-go"},
		"an image comes from a registry",
	},
	{
		"s3stream",
		[]string{"github.com/coredns/", "github.com/hanwen/", "github.com/containerd/", "k8s.io/"},
		"a job must be able to embed it",
	},
	{
		"csi",
		[]string{"github.com/coredns/", "github.com/containerd/", "k8s.io/client-go"},
		"the node binary stays small",
	},
	{
		"dnsplugin",
		[]string{"github.com/hanwen/", "github.com/containerd/", module + "/internal/ranges", module + "/internal/s3"},
		"dnsplugin stands apart",
	},
}

// under reports whether the path is the folder or lies below it.
func under(path, folder string) bool {
	return path == folder || folder == "" || strings.HasPrefix(path, folder+"/")
}

// unitOf returns the longest unit that holds the folder; "" for the top or
// for a place that the table does not know.
func unitOf(rel string) string {
	best := ""
	for u := range units {
		if under(rel, u) && len(u) > len(best) {
			best = u
		}
	}
	return best
}

// allowed reports whether code in folder from may import folder to.
func allowed(from, to string, test bool) bool {
	support := slices.ContainsFunc(testSupport, func(s string) bool { return under(to, s) })
	unit := unitOf(from)
	switch {
	case under(to, unit) && unit != "" && unitOf(to) == unit:
		return true // itself: Go's own rule about internal does the rest
	case support:
		return test || under(from, "benchmarks") || slices.ContainsFunc(testSupport, func(s string) bool { return under(from, s) })
	case unit == "examples":
		return !slices.Contains(strings.Split(to, "/"), "internal") && allowedBy(units[unit], to)
	}
	return allowedBy(units[unit], to)
}

func allowedBy(list []string, to string) bool {
	return slices.ContainsFunc(list, func(a string) bool { return under(to, a) })
}

func TestImportGraph(t *testing.T) {
	t.Parallel()
	for _, p := range packages(t) {
		rel := p.Rel()
		if rel != "" && unitOf(rel) == "" {
			t.Errorf("%s has no place in the import graph: see the table in internal/lint/imports_test.go", rel)
			continue
		}
		check := func(imports []string, test bool) {
			for _, imp := range imports {
				to, ours := strings.CutPrefix(imp, module+"/")
				if !ours || allowed(rel, to, test) {
					continue
				}
				t.Errorf("%s must not import %s (a level imports lower levels only, never sideways): declare the interface it needs and wire it in cmd, examples or benchmarks", rel, to)
			}
		}
		check(p.Imports, false)
		check(p.TestImports, true)
		check(p.XTestImports, true)
	}
}

// The policy itself is worth a test: a table that allows everything passes too.
func TestImportGraphRefuses(t *testing.T) {
	t.Parallel()
	cases := []struct {
		from, to string
		test     bool
		want     bool
	}{
		{"soci", "s3stream", false, false},
		{"soci", "internal/ranges", false, true},
		{"soci", "internal/s3", false, false},
		{"soci/internal/registry", "internal/httprange", false, true},
		{"soci", "soci/internal/untar", false, true},
		{"soci/internal/untar", "soci/internal/tarfile", false, true},
		{"soci/internal/tarfile", "soci/internal/untar", false, false},
		{"soci/internal/untar", "soci/internal/tarfile/tartest", false, false},
		{"soci/internal/untar", "soci/internal/tarfile/tartest", true, true},
		{"csi/internal/fs", "s3stream", false, false},
		{"csi/cmd/penstock-csi", "s3stream", false, true},
		{"dnsplugin", "internal/budget", false, false},
		{"internal/ranges", "internal/httprange", false, false},
		{"internal/ranges", "internal/budget", false, true},
		{"internal/budget", "internal/ranges", false, false},
		{"internal/s3", "internal/testorigin", false, false},
		{"internal/s3", "internal/testorigin", true, true},
		{"benchmarks/engine", "internal/testorigin", false, true},
		{"examples/pull-image", "soci", false, true},
		{"examples/pull-image", "internal/ranges", false, false},
		{"examples/pull-image", "soci/internal/untar", false, false},
		{"soci", "soci/cmd/penstock-pull", false, false},
	}
	for _, c := range cases {
		if got := allowed(c.from, c.to, c.test); got != c.want {
			t.Errorf("allowed(%s -> %s, test %v) = %v, want %v", c.from, c.to, c.test, got, c.want)
		}
	}
}

func TestNoHeavyDependencyLeaks(t *testing.T) {
	t.Parallel()
	for _, p := range packages(t) {
		for _, l := range leaks {
			if unitOf(p.Rel()) != l.unit || slices.ContainsFunc(testSupport, func(s string) bool { return under(p.Rel(), s) }) {
				continue
			}
			for _, dep := range p.Deps {
				for _, b := range l.banned {
					if dep == strings.TrimSuffix(b, "/") || strings.HasPrefix(dep, strings.TrimSuffix(b, "/")+"/") && b != "net" {
						t.Errorf("%s reaches %s: %s", p.Rel(), dep, l.reason)
					}
				}
			}
		}
	}
}

// TestProgramsShareOneCommandLine keeps the standard flag package, whose dialect
// differs, out of the programs that users start.
func TestProgramsShareOneCommandLine(t *testing.T) {
	t.Parallel()
	programs := 0
	for _, p := range packages(t) {
		rel := p.Rel()
		if p.Name != "main" || !slices.Contains([]string{"soci/cmd", "s3stream/cmd", "csi/cmd"}, unitOf(rel)) {
			continue
		}
		programs++
		if slices.Contains(p.Imports, "flag") || !slices.Contains(p.Imports, module+"/internal/cli") {
			t.Errorf("%s reads its flags by another package than internal/cli", rel)
		}
	}
	if programs != 4 {
		t.Errorf("found %d programs, want 4", programs)
	}
}
