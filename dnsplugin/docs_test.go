package dnsplugin

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// The tests that docs/dnsplugin.md names for its promises are there.
func TestDocumentedTestsExist(t *testing.T) {
	doc, err := os.ReadFile("../docs/dnsplugin.md")
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, pattern := range []string{"*_test.go", "*/*_test.go", "*/*/*_test.go"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			all.Write(b)
		}
	}
	names := regexp.MustCompile("`(Test[A-Z][A-Za-z0-9]*)`").FindAllStringSubmatch(string(doc), -1)
	if len(names) < 40 {
		t.Errorf("%d names found", len(names))
	}
	for _, n := range names {
		if !strings.Contains(all.String(), "\nfunc "+n[1]+"(") {
			t.Errorf("%s is not there", n[1])
		}
	}
}

// Defaults stand in several documents: each has the code's.
func TestDocumentedDefaultsMatchTheCode(t *testing.T) {
	read := func(name string) string {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		return strings.Join(strings.Fields(string(b)), " ")
	}
	memory := inUnits(DefaultMaxMemory)
	manual, configuration := read("README.md"), read("../docs/configuration.md")
	for _, tt := range []struct{ what, in, want string }{
		{"maxmem, manual", manual, "default `" + strings.ReplaceAll(memory, " ", "") + "`"},
		{"maxmem, least", manual, "at least `" + strings.ReplaceAll(inUnits(MinMaxMemory), " ", "") + "`"},
		{"maxmem, configuration", configuration, "| `dnsplugin` | `maxmem` | " + memory + " for each server block |"},
		{"coalesce", manual, fmt.Sprintf("(default %d)", DefaultCoalesce)},
		{"batch", manual, fmt.Sprintf("(default %d, at most %d)", DefaultBatch, MaxBatch)},
		{"capacity", manual, fmt.Sprintf("at least %d;", MinCapacity)},
		{"servfail", manual, fmt.Sprintf("(default %v, at most %dm, 0: not at all)", DefaultServFail, MaxServFail/time.Minute)},
		{"serve_stale", manual, fmt.Sprintf("(default %dh)", DefaultStale/time.Hour)},
		{"prefetch", manual, fmt.Sprintf("(10%% to 90%%, default %d%%)", defaultPrefetchPercentage)},
		{"subnets", manual, fmt.Sprintf("a warning says so after %d questions", subnetsBeforeWarning)},
	} {
		if !strings.Contains(tt.in, tt.want) {
			t.Errorf("%s: no %q", tt.what, tt.want)
		}
	}
	// One rule for the memory of a container.
	const rule = "`maxmem` and 200 MiB or more"
	for _, name := range []string{"../docs/operations.md", "../docs/dnsplugin.md"} {
		if text := read(name); !strings.Contains(text, rule) || !strings.Contains(text, "nine tenths") {
			t.Errorf("%s has another rule than: %s", name, rule)
		}
	}
	for _, option := range ourOptions {
		if !strings.Contains(read("../docs/operations.md"), "`"+option+"`") {
			t.Errorf("docs/operations.md does not say that %s has to go before going back", option)
		}
	}
}

// ourOptions are those that CoreDNS's cache does not have.
var ourOptions = []string{"maxmem", "coalesce", "fastpath", "workers", "batch", "stale", "warm", "control", "nxcut"}

// The program in the package comment can be built and knows its directives.
// internal/lint builds the program of the top README.
func TestProgramOfThePackageComment(t *testing.T) {
	if testing.Short() {
		t.Skip("builds a program")
	}
	doc, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	_, code, found := strings.Cut(string(doc), "//\timport (")
	if !found {
		t.Fatal("there is no program")
	}
	code, _, found = strings.Cut(code, "//\n// Do not import")
	if !found {
		t.Fatal("the program has no end")
	}
	checkProgram(t, "package main\nimport ("+strings.ReplaceAll(strings.ReplaceAll(code, "//\t", ""), "//\n", "\n"), "penstock", "cache", "forward")
}

func TestProgramOfTheTopReadme(t *testing.T) {
	if testing.Short() {
		t.Skip("builds a program")
	}
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, code, found := strings.Cut(string(readme), "```go\nimport (\n\t\"github.com/coredns")
	if !found {
		t.Fatal("there is no program")
	}
	code, _, _ = strings.Cut(code, "```")
	checkProgram(t, "package main\nimport (\n\"github.com/coredns"+code, "cache", "forward")
}

// checkProgram builds a CoreDNS and looks that it knows directives, the last of which is forward.
func checkProgram(t *testing.T, code string, directives ...string) {
	t.Helper()
	dir := t.TempDir()
	source := filepath.Join(dir, "main.go")
	if err := os.WriteFile(source, []byte(code), 0o600); err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(dir, "coredns")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-ldflags=-s -w", "-o", bin, source).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s\n%s", err, out, code)
	}
	// A directive that is known complains about its option itself.
	for _, d := range directives[:len(directives)-1] {
		conf := filepath.Join(dir, "Corefile")
		text := ".:0 {\n    " + d + " {\n        nonsense\n    }\n    forward . 192.0.2.1\n}\n"
		if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.CommandContext(t.Context(), bin, "-conf", conf).CombinedOutput()
		if err == nil || !strings.Contains(string(out), `unknown option "nonsense"`) {
			t.Errorf("%s: %v\n%s", d, err, out)
		}
	}
}
