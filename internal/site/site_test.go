package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The site of this tree has no broken link or anchor, and loads nothing from
// elsewhere.
func TestSiteOfThisTree(t *testing.T) {
	s, err := load(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	files, err := s.render()
	if err != nil {
		t.Fatal(err)
	}
	if err := check(files); err != nil {
		t.Fatal(err)
	}
	if len(s.pages) < 20 {
		t.Fatalf("%d pages", len(s.pages))
	}
	index := string(files["index.html"])
	for _, want := range []string{`name="viewport"`, `<div class="scroll"><table>`, `href="docs/soci.html"`} {
		if !strings.Contains(index, want) {
			t.Errorf("index.html has no %s", want)
		}
	}
}

func TestBrokenLinksAreErrors(t *testing.T) {
	files := map[string][]byte{
		"index.html": []byte(`<h1 id="top">a</h1><a href="b/c.html#there">b</a><a href="#top">c</a><a href="https://x.example">d</a>`),
		"b/c.html":   []byte(`<h2 id="there">c</h2><a href="../index.html">a</a>`),
	}
	if err := check(files); err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string]string{
		"gone.html, which does not exist": `<a href="../gone.html">x</a>`,
		"#nowhere, which has no such":     `<a href="../index.html#nowhere">x</a>`,
		"c.html loads https://":           `<img src="https://x.example/a.png">`,
	} {
		files["b/c.html"] = []byte(`<h2 id="there">c</h2>` + bad)
		if err := check(files); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

func TestPagesOutsideTheNavigationAreErrors(t *testing.T) {
	s := &site{pages: map[string]*page{"docs/new.md": {name: "docs/new.md"}, "benchmarks/x/results/1/table.md": {}}}
	err := s.checkNavigation()
	if err == nil || !strings.Contains(err.Error(), "docs/new.md is not in the navigation") {
		t.Errorf("got %v", err)
	}
	if err != nil && strings.Contains(err.Error(), "results/1/table.md") {
		t.Errorf("the pages of results need no place: %v", err)
	}
}

func TestAnchorsFollowGitHub(t *testing.T) {
	for heading, want := range map[string]string{
		"Killed, and begun again":     "killed-and-begun-again",
		"Before the first volume":     "before-the-first-volume",
		"0001: dependencies":          "0001-dependencies",
		"`penstock-csi` and its mode": "penstock-csi-and-its-mode",
	} {
		if got := slug(heading); got != want {
			t.Errorf("slug(%q) = %q, want %q", heading, got, want)
		}
	}
}

func TestForeignFoldersAreKept(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "precious")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := write(dir, map[string][]byte{marker: nil}); err == nil {
		t.Error("a folder that is not a site was replaced")
	}
	if _, err := os.Stat(file); err != nil {
		t.Error(err)
	}
}
