package prose

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestHabits(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ text, habit string }{
		{"it frees what is left of the buffer", "headless-what"},
		{"nobody waits for it", "somebody"},
		{"the pull goes on with the next layer", "goes-on"},
		{"its size is that of the layer", "that-of"},
		{"such a file is none", "is-no"},
		{"is no file of ours", "is-no"},
		{"tee returns the writer; nil: there is no copy", "nil-fragment"},
		{"a copy beside the index", "beside"},
		{"Who closes it frees it.", "bare-who"},
		{"flush for who holds the lock", "bare-who"},
		{"a blob is begun from its start", "begun-anew"},
		{"the caller is told once", "is-told"},

		{"say what went wrong", ""},
		{"the caller, who holds the lock, frees it", ""},
		{"it is no longer needed", ""},
		{"the pull resumes with the next layer", ""},
		{`the words "nobody goes on" are quoted`, ""},
	} {
		var found []string
		var x text
		x.add(1, c.text)
		for _, f := range x.findings("x.go") {
			found = append(found, f.Habit)
		}
		if got := strings.Join(found, " "); got != c.habit {
			t.Errorf("%q shows %q, want %q", c.text, got, c.habit)
		}
	}
}

func TestTree(t *testing.T) {
	t.Parallel()
	top := t.TempDir()
	write := func(name, content string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Join(top, filepath.Dir(name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(top, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("a/a.go", `// Package a is read over the end of a line: the pull goes
// on, and so does the count.
package a

//go:generate nobody

//nolint:all // nobody

// Code is left out:
//
//	nobody.Runs()
func f() { panic("a job that nobody waits for") }

var short = "nobody here"
`)
	write("a/a_test.go", "package a\n\nvar x = \"a string of a test that nobody reads\"\n")
	write("a/testdata/b.go", "package b // nobody\n")
	write("docs/x.md", "# Title\n\nThe last one is told.\n\n```\nnobody\n```\n\n- uses `nobody`\n")
	units, err := Tree(top, []string{"a/a.go", "a/a_test.go", "a/testdata/b.go", "docs/x.md", "docs/x.png"})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, u := range units {
		for _, f := range u.Findings {
			got = append(got, f.File+" "+f.Habit)
		}
	}
	want := "a/a.go goes-on, a/a.go somebody, docs/x.md is-told"
	if s := strings.Join(got, ", "); s != want {
		t.Errorf("found %s, want %s", s, want)
	}
	if n := units[0].Findings[0].Line; n != 1 {
		t.Errorf("a sentence over two lines is reported at line %d, want 1", n)
	}
	if n := units[0].Findings[1].Line; n != 12 {
		t.Errorf("a string is reported at line %d, want 12", n)
	}
}

// The gate has to refuse: a new offence, a ceiling that is higher than its
// folder needs, and a ceiling that rises.
func TestCheckRefuses(t *testing.T) {
	t.Parallel()
	unit := func(n int) []*Unit {
		u := &Unit{Dir: "soci", Lines: 1000}
		for range n {
			u.Findings = append(u.Findings, Finding{File: "soci/a.go", Habit: "headless-what"})
		}
		return []*Unit{u}
	}
	ceilings := func(s string) Ceilings {
		c, err := ReadCeilings(strings.NewReader(s))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	for _, c := range []struct {
		name     string
		count    int
		ceilings string
		want     string
	}{
		{"within the rate", 3, "", ""},
		{"above the rate", 4, "", "4 of the habit headless-what, 3 allowed"},
		{"at its ceiling", 9, "soci headless-what 9", ""},
		{"above its ceiling", 10, "soci headless-what 9", "10 of the habit headless-what, 9 allowed"},
		{"a ceiling to lower", 8, "soci headless-what 9", "its ceiling is 9: lower"},
		{"a ceiling of a folder that went", 0, "gone somebody 1", "gone has 0 of the habit somebody"},
	} {
		var got []string
		for _, v := range Check(unit(c.count), ceilings(c.ceilings)) {
			got = append(got, v.String())
		}
		s := strings.Join(got, "; ")
		if c.want == "" && s != "" || !strings.Contains(s, c.want) {
			t.Errorf("%s: %q, want %q", c.name, s, c.want)
		}
	}
	raised := ceilings("a somebody 2\nb somebody 1").Raised(ceilings("a somebody 1\nc somebody 4"))
	if got := strings.Join(raised, "; "); got != "a somebody: 2, was 1; b somebody: 1, was 0" {
		t.Errorf("raised: %s", got)
	}
}

func TestReadCeilingsRefuses(t *testing.T) {
	t.Parallel()
	for _, s := range []string{"soci somebody", "soci somebody x", "soci somebody 0", "soci nonsense 1", "soci somebody 1\nsoci somebody 2"} {
		if _, err := ReadCeilings(strings.NewReader(s)); err == nil || !strings.Contains(err.Error(), "line ") {
			t.Errorf("%q: %v, want an error that names the line", s, err)
		}
	}
}

func TestCeilingsAreWrittenAsRead(t *testing.T) {
	t.Parallel()
	const want = "a headless-what 2\na is-told 1\nb somebody 3\n"
	c, err := ReadCeilings(strings.NewReader("# first\n\nb somebody 3\na is-told 1\na headless-what 2\n"))
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	if _, err := c.WriteTo(&b); err != nil || b.String() != want {
		t.Errorf("wrote %q, %v, want %q", b.String(), err, want)
	}
}

func TestChanged(t *testing.T) {
	t.Parallel()
	units := []*Unit{{Dir: "a", Findings: []Finding{
		{File: "a/a.go", Line: 4, Habit: "somebody"},
		{File: "a/a.go", Line: 7, Habit: "somebody"},
		{File: "a/a.go", Line: 12, Habit: "beside"},
		{File: "a/b.go", Line: 4, Habit: "beside"},
	}}}
	got := Changed(units, "diff --git a/a/a.go b/a/a.go\n--- a/a/a.go\n+++ b/a/a.go\n@@ -4,0 +5,3 @@ func f() {\n+x\n+y\n+z\n@@ -9 +12 @@\n-a\n+b\n")
	if len(got) != 2 || got[0].Line != 7 || got[1].Line != 12 {
		t.Errorf("findings of the change: %v, want those at lines 7 and 12 of a/a.go", got)
	}
}
