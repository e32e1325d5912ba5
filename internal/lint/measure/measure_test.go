package measure

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestRead(t *testing.T) {
	t.Parallel()
	top := t.TempDir()
	files := map[string]string{
		"lib/lib.go": `// Package lib is public.
package lib

var others = 1

type next struct{ next, prev int }

func (n next) F(a, b, c, d, e, f int, x, y bool) {
	if x && y {
		switch a {
		case 1, 2:
		default:
		}
	}
}

// Public is exported, and nobody calls it.
func Public() {}

func next2() {}
`,
		"lib/a.go":        "package lib\n\ntype a struct{ next int }\n\nfunc (a) next() {}\n",
		"lib/lib_test.go": "package lib\n\nfunc TestA() {}\n",
		"README.md":       strings.Repeat("long ", 30) + "\n\nshort\n",
	}
	names := make([]string, 0, len(files))
	for name, content := range files {
		if err := os.MkdirAll(filepath.Join(top, filepath.Dir(name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(top, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		names = append(names, name)
	}
	m, err := Read(top, names)
	if err != nil {
		t.Fatal(err)
	}
	check := func(what string, got, want int) {
		t.Helper()
		if got != want {
			t.Errorf("%s: %d, want %d", what, got, want)
		}
	}
	check("functions", len(m.FuncLines), 4)
	check("longest function", m.Longest["lib.F"], 8)
	check("many parameters", m.ManyParams, 1)
	check("two bools", m.TwoBools, 1)
	check("complexity", max(m.Complexity[0], m.Complexity[len(m.Complexity)-1], m.Complexity[1]), 4)
	check("one-word variables", m.Globals["lib"], 1)
	check("meanings of next: a type, two fields and a method", m.Ambiguous["lib"], 1)
	check("exported", m.Exported["lib"], 1)
	check("tests", m.Tests, 1)
	check("long lines", m.LongMDLine, 1)
	var out strings.Builder
	Write(&out, []string{"a"}, []*Tree{m})
	for _, want := range []string{"| measure | a |", "| tests | 1 |", "somebody per 1,000"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the report lacks %q:\n%s", want, &out)
		}
	}
}
