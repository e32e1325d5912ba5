package lint

import (
	"encoding/json"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// documents are what people read; their claims are checked below.
func documents(t *testing.T) []string {
	t.Helper()
	var out []string
	for _, f := range files(t, ".md") {
		if !strings.Contains(f, "/testdata/") && !strings.Contains(f, "/results/") {
			out = append(out, f)
		}
	}
	return out
}

var (
	inlineCode = regexp.MustCompile("`([^`\n]+)`")
	pathLike   = regexp.MustCompile(`^\.?/?[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)+/?$`)
	mdLink     = regexp.MustCompile(`\]\(([^)#\s]+)(#[^)]*)?\)`)
	makeCall   = regexp.MustCompile("(?m)(?:`|^\\$ |^)make ([a-z]+)")
	testName   = regexp.MustCompile(`^(Test|Fuzz|Example|Benchmark)[A-Z_]\w*$`)
)

// generated folders are named in documents and exist only after a run.
var generated = []string{"bin", "site", ".tools"}

func TestPathsInDocumentsExist(t *testing.T) {
	t.Parallel()
	top, err := os.ReadDir(root())
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range top {
		if e.IsDir() && !slices.Contains(generated, e.Name()) {
			names = append(names, e.Name())
		}
	}
	for _, d := range documents(t) {
		text := read(t, d)
		for _, m := range inlineCode.FindAllStringSubmatch(text, -1) {
			p := strings.TrimSuffix(strings.TrimPrefix(m[1], "./"), "/...")
			first, _, _ := strings.Cut(p, "/")
			if !pathLike.MatchString(p) || !slices.Contains(names, first) {
				continue
			}
			if !exists(p) && !exists(path.Join(path.Dir(d), p)) {
				t.Errorf("%s names `%s`, which does not exist", d, m[1])
			}
		}
		for _, m := range mdLink.FindAllStringSubmatch(text, -1) {
			if strings.Contains(m[1], ":") {
				continue // an address
			}
			if !exists(path.Join(path.Dir(d), m[1])) {
				t.Errorf("%s links to %s, which does not exist", d, m[1])
			}
		}
	}
}

func TestMakeTargetsInDocumentsExist(t *testing.T) {
	t.Parallel()
	if !exists("Makefile") {
		t.Fatal("no Makefile")
	}
	makefile := "\n" + read(t, "Makefile")
	for _, d := range documents(t) {
		for _, m := range makeCall.FindAllStringSubmatch(read(t, d), -1) {
			if !strings.Contains(makefile, "\n"+m[1]+":") {
				t.Errorf("%s tells to run make %s, which is no target", d, m[1])
			}
		}
	}
}

// A document that names a test as its proof must name one that exists.
func TestTestsInDocumentsExist(t *testing.T) {
	t.Parallel()
	var src strings.Builder
	for _, f := range files(t, "_test.go") {
		src.WriteString(read(t, f))
	}
	for _, d := range documents(t) {
		for _, m := range inlineCode.FindAllStringSubmatch(read(t, d), -1) {
			if testName.MatchString(m[1]) && !strings.HasSuffix(m[1], "Xxx") && !strings.Contains(src.String(), "func "+m[1]+"(") {
				t.Errorf("%s names %s as a test; there is none", d, m[1])
			}
		}
	}
}

// dependencies is where each direct dependency has its reason.
const dependencies = "docs/decisions/0001-dependencies.md"

func TestEveryDependencyHasAReason(t *testing.T) {
	t.Parallel()
	out, err := command("go", "mod", "edit", "-json")
	if err != nil {
		t.Fatal(err)
	}
	var mod struct {
		Require []struct {
			Path     string
			Indirect bool
		}
	}
	if err := json.Unmarshal(out, &mod); err != nil {
		t.Fatal(err)
	}
	text := read(t, dependencies)
	for _, r := range mod.Require {
		if !r.Indirect && !strings.Contains(text, "`"+r.Path+"`") {
			t.Errorf("%s requires %s and %s gives no reason for it", "go.mod", r.Path, dependencies)
		}
	}
}

func TestDecisionsAreNumbered(t *testing.T) {
	t.Parallel()
	name := regexp.MustCompile(`^\d{4}-[a-z0-9-]+\.md$`)
	seen := map[string]string{}
	for _, f := range files(t, ".md") {
		if filepath.Dir(f) != "docs/decisions" {
			continue
		}
		base := filepath.Base(f)
		if !name.MatchString(base) {
			t.Errorf("%s: a decision is named NNNN-title.md", f)
			continue
		}
		if other, ok := seen[base[:4]]; ok {
			t.Errorf("%s and %s have the same number", f, other)
		}
		seen[base[:4]] = f
		for _, heading := range []string{"Status", "Context", "Decision", "Consequences", "Rejected"} {
			if !strings.Contains(read(t, f), heading) {
				t.Errorf("%s says nothing under %q", f, heading)
			}
		}
	}
}
