package lint

import (
	"go/ast"
	"go/doc"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// public reports whether users import the package.
func public(p pkg) bool {
	if p.Name == "main" || !slices.Contains([]string{"soci", "s3stream", "csi", "dnsplugin"}, unitOf(p.Rel())) {
		return false
	}
	return !slices.Contains(strings.Split(p.Rel(), "/"), "internal")
}

func TestEveryPackageIsDocumented(t *testing.T) {
	t.Parallel()
	for _, p := range packages(t) {
		if len(p.GoFiles) == 0 {
			continue
		}
		if p.Doc == "" {
			t.Errorf("%s has no package comment", p.Rel())
		}
		if p.Name != "main" && len(p.GoFiles) > 1 && !slices.Contains(p.GoFiles, "doc.go") {
			t.Errorf("%s has no doc.go: what it is for, a six-line example, vocabulary, concurrency contract, failure model, non-goals", p.Rel())
		}
	}
}

func TestEveryPublicPackageHasAnExample(t *testing.T) {
	t.Parallel()
	for _, p := range packages(t) {
		if public(p) && exports(t, p) && !hasExample(t, p) {
			t.Errorf("%s has no Example with an // Output: comment", p.Rel())
		}
	}
}

// exports reports whether the package has anything to call; one that only
// registers itself has not.
func exports(t *testing.T, p pkg) bool {
	t.Helper()
	for _, name := range p.GoFiles {
		f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, name), nil, 0)
		if err != nil {
			t.Errorf("%v", err)
			continue
		}
		if ast.FileExports(f) {
			return true
		}
	}
	return false
}

// hasExample reports whether a test file of the package has an example that
// go test runs.
func hasExample(t *testing.T, p pkg) bool {
	t.Helper()
	for _, name := range slices.Concat(p.TestGoFiles, p.XTestGoFiles) {
		f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, name), nil, parser.ParseComments)
		if err != nil {
			t.Errorf("%v", err)
			continue
		}
		for _, ex := range doc.Examples(f) {
			if ex.Output != "" || ex.EmptyOutput {
				return true
			}
		}
	}
	return false
}

// maxMainLines bounds a main, which parses flags into Options and calls Run. A
// longer one holds logic that no test reaches.
const maxMainLines = 150

func TestMainsAreShort(t *testing.T) {
	t.Parallel()
	for _, f := range files(t, "/main.go") {
		if !strings.Contains(f, "/cmd/") {
			continue
		}
		if n := strings.Count(read(t, f), "\n"); n > maxMainLines {
			t.Errorf("%s has %d lines: a main of more than %d holds logic that belongs into a package", f, n, maxMainLines)
		}
	}
}

// realTime marks a sleep that polls a real process or kernel, with its reason,
// so that a review sees it.
var realTime = regexp.MustCompile(`time\.Sleep\(.*\) // real time: \w+`)

// A test that sleeps assumes a speed of the machine, and one day it is slower.
// Inside testing/synctest time is fake, and sleeping is how it passes.
func TestNoSleepInTests(t *testing.T) {
	t.Parallel()
	for _, f := range files(t, "_test.go") {
		src := read(t, f)
		if strings.Contains(src, `"testing/synctest"`) || f == "internal/lint/packages_test.go" {
			continue
		}
		for i, line := range strings.Split(src, "\n") {
			if strings.Contains(line, "time.Sleep(") && !realTime.MatchString(line) {
				t.Errorf("%s:%d sleeps: wait for a signal or use testing/synctest", f, i+1)
			}
		}
	}
}

// leftovers matches notes to oneself. Written in pieces, or it would match itself.
var leftovers = regexp.MustCompile(`\b(TO` + `DO|FIX` + `ME|XX` + `X)\b`)

func TestNoNotesToSelf(t *testing.T) {
	t.Parallel()
	for _, f := range files(t, ".go", ".sh", ".md", ".yml", ".yaml", "Makefile", "Corefile") {
		if strings.Contains(f, "/testdata/") {
			continue
		}
		for i, line := range strings.Split(read(t, f), "\n") {
			if leftovers.MatchString(line) {
				t.Errorf("%s:%d has a note to self: do it, or file an issue", f, i+1)
			}
		}
	}
}

func TestTestdataIsUsed(t *testing.T) {
	t.Parallel()
	for _, p := range packages(t) {
		entries, err := os.ReadDir(filepath.Join(p.Dir, "testdata"))
		if err != nil {
			continue
		}
		var src strings.Builder
		for _, name := range slices.Concat(p.TestGoFiles, p.XTestGoFiles) {
			src.WriteString(read(t, filepath.Join(p.Rel(), name)))
		}
		for _, e := range entries {
			if e.Name() == "fuzz" {
				checkCorpora(t, p, src.String())
				continue
			}
			stem := strings.TrimSuffix(e.Name(), filepath.Ext(e.Name()))
			walks := strings.Contains(src.String(), `"testdata"`) || strings.Contains(src.String(), `testdata/*`)
			if !walks && !strings.Contains(src.String(), stem) {
				t.Errorf("%s/testdata/%s: no test of the package names it", p.Rel(), e.Name())
			}
		}
	}
}

// checkCorpora: a corpus belongs to a target, and a target has a corpus.
func checkCorpora(t *testing.T, p pkg, src string) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(p.Dir, "testdata", "fuzz"))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !strings.Contains(src, "func "+e.Name()+"(f *testing.F)") {
			t.Errorf("%s/testdata/fuzz/%s: no such fuzz target", p.Rel(), e.Name())
		}
	}
}

func TestFuzzTargetsHaveACorpus(t *testing.T) {
	t.Parallel()
	for _, p := range packages(t) {
		for _, name := range slices.Concat(p.TestGoFiles, p.XTestGoFiles) {
			f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, name), nil, 0)
			if err != nil {
				continue // the compiler says it better
			}
			for _, d := range f.Decls {
				fn, ok := d.(*ast.FuncDecl)
				if !ok || !strings.HasPrefix(fn.Name.Name, "Fuzz") || fn.Recv != nil || len(fn.Type.Params.List) != 1 {
					continue
				}
				corpus := filepath.Join(p.Rel(), "testdata", "fuzz", fn.Name.Name)
				src := read(t, filepath.Join(p.Rel(), name))
				// rapid draws its choices from the input, of which any bytes will do.
				if !exists(corpus) && !strings.Contains(src, "f.Add(") && !strings.Contains(src, "rapid.MakeFuzz(") {
					t.Errorf("%s %s has neither seeds nor a corpus in %s", p.Rel(), fn.Name.Name, corpus)
				}
			}
		}
	}
}
