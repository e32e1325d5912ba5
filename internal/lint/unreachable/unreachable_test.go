package unreachable

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const module = "example.org/m"

// The gate has to refuse: an unreachable function, an entry without a reason,
// and an entry that is not needed.
func TestCompareRefuses(t *testing.T) {
	t.Parallel()
	funcs := []Func{{"soci/internal/untar.NewMeter", "a.go:1"}, {"internal/nic.Dialer.Stats", "b.go:2"}, {"csi/internal/memstore.Store.Put", "c.go:3"}}
	for _, c := range []struct{ name, allowed, want string }{
		{"nothing allowed", "", "a.go:1: no program and no user can reach soci/internal/untar.NewMeter"},
		{"one allowed", "soci/internal/untar.NewMeter: tests of csi", "b.go:2: no program and no user can reach internal/nic.Dialer.Stats"},
		{
			"all allowed", "# why\n\nsoci/internal/untar.NewMeter: x\ninternal/nic.Dialer.Stats: y\ncsi/internal/memstore.*: z", "",
		},
		{
			"too much allowed", "soci/internal/untar.NewMeter: x\ninternal/nic.Dialer.Stats: y\ncsi/internal/memstore.*: z\ninternal/nic.*: a", "internal/nic.*, which is reachable or gone",
		},
	} {
		allowed, err := ReadAllowed(strings.NewReader(c.allowed))
		if err != nil {
			t.Fatal(err)
		}
		got := strings.Join(Compare(funcs, allowed), "\n")
		if c.want == "" && got != "" || !strings.Contains(got, c.want) {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
	for _, s := range []string{"soci.Pull", "soci.Pull: ", "a: x\na: y"} {
		if _, err := ReadAllowed(strings.NewReader(s)); err == nil {
			t.Errorf("allow-list %q is accepted", s)
		}
	}
}

// deadcode itself, over a module with a public package, a program and one
// function that only a test calls.
func TestDeadcodeFindsIt(t *testing.T) {
	t.Parallel()
	tool, err := exec.LookPath("deadcode")
	if err != nil {
		t.Skip("needs tool deadcode: scripts/tools.sh builds it into .tools/bin")
	}
	dir := t.TempDir()
	for name, content := range map[string]string{
		"go.mod":                    "module " + module + "\n\ngo 1.25\n",
		"lib/lib.go":                "// Package lib is public.\npackage lib\n\nimport \"" + module + "/internal/x\"\n\n// T is public.\ntype T struct{}\n\n// M is public.\nfunc (T) M() { x.ByMethod() }\n\n// F is public.\nfunc F() { x.ByFunc() }\n\n// V is public.\nvar V = x.ByVar\n",
		"internal/x/x.go":           "package x\n\nfunc ByMethod() {}\nfunc ByFunc() {}\nfunc ByVar() {}\nfunc ByProgram() {}\nfunc ByTest() {}\n",
		"internal/x/x_test.go":      "package x\n\nimport \"testing\"\n\nfunc TestByTest(t *testing.T) { ByTest() }\n",
		"cmd/p/main.go":             "package main\n\nimport \"" + module + "/internal/x\"\n\nfunc main() { x.ByProgram() }\n",
		"generated/roots/ignore.md": "the program of Roots goes here",
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var roots bytes.Buffer
	if err := Roots(&roots, module, dir, []string{"lib"}); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "generated/roots/main.go"), roots.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(tool, "-json", "./...")
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s\n%s", err, out, &roots)
	}
	funcs, err := Parse(module, out)
	if err != nil {
		t.Fatal(err)
	}
	if len(funcs) != 1 || funcs[0].Name != "internal/x.ByTest" {
		t.Errorf("unreachable: %v, want internal/x.ByTest alone", funcs)
	}
}
