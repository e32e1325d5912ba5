// Command unreachable fails on code that neither a program of the tree nor a
// user of its public packages can reach. It runs deadcode, which must be on the
// PATH, and needs no flags.
//
//	unreachable
//
// The allow-list is internal/lint/testdata/unreachable.allowed.
package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/penstock/penstock/internal/lint/unreachable"
)

const (
	module  = "github.com/penstock/penstock"
	allowed = "internal/lint/testdata/unreachable.allowed"
	rootDir = ".tools/roots" // inside the module, outside of ./... and of git
)

// public are the packages that users import.
var public = []string{"soci", "s3stream", "csi", "dnsplugin", "dnsplugin/dropin"}

// unshipped are folders whose code is for tests, benchmarks and developers. Their
// functions are not reported, and their programs keep nothing alive. Folders whose
// name ends in "test" count too: they help the tests of the package above.
var unshipped = []string{
	"benchmarks", "internal/lint", "internal/testorigin", "internal/netlab", "internal/testport", "internal/dnsload",
	"internal/figures",
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "unreachable:", err)
		os.Exit(1)
	}
}

func run() error {
	list, err := os.Open(allowed)
	if err != nil {
		return err
	}
	defer list.Close()
	reasons, err := unreachable.ReadAllowed(list)
	if err != nil {
		return fmt.Errorf("%s: %w", allowed, err)
	}
	if err := writeRoots(); err != nil {
		return err
	}
	pkgs, err := shipped()
	if err != nil {
		return err
	}
	out, err := output("deadcode", append([]string{"-json", "./" + rootDir}, pkgs...)...)
	if err != nil {
		return err
	}
	funcs, err := unreachable.Parse(module, out)
	if err != nil {
		return err
	}
	problems := unreachable.Compare(funcs, reasons)
	for _, p := range problems {
		fmt.Println(p)
	}
	if len(problems) > 0 {
		return fmt.Errorf("%d functions or entries; the allow-list is %s", len(problems), allowed)
	}
	return nil
}

func writeRoots() error {
	if err := os.MkdirAll(rootDir, 0o755); err != nil { //nolint:gosec // a folder of the source tree
		return err
	}
	f, err := os.Create(filepath.Join(rootDir, "main.go"))
	if err != nil {
		return err
	}
	return errors.Join(unreachable.Roots(f, module, ".", public), f.Close())
}

// shipped returns the packages of the tree that users run or import.
func shipped() ([]string, error) {
	out, err := output("go", "list", "./...")
	if err != nil {
		return nil, err
	}
	var pkgs []string
	for _, path := range strings.Fields(string(out)) {
		rel := strings.TrimPrefix(path, module+"/")
		if strings.Contains(rel, "/internal/") && strings.Contains(rel, "/cmd/") || strings.HasSuffix(rel, "test") {
			continue // a developer's program, or help for tests
		}
		if !slices.ContainsFunc(unshipped, func(dir string) bool { return rel == dir || strings.HasPrefix(rel, dir+"/") }) {
			pkgs = append(pkgs, path)
		}
	}
	return pkgs, nil
}

func output(name string, args ...string) ([]byte, error) {
	cmd := exec.Command(name, args...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return out, nil
}
