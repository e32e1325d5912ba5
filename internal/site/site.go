package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// repository is where links lead that leave the site.
const repository = "https://github.com/penstock/penstock"

// group is a part of the navigation. An entry that ends in "/" stands for all
// pages below it that no other entry names.
type group struct {
	Title   string
	Entries []string
}

var groups = []group{
	{"Start", []string{"README.md", "docs/architecture.md", "CHANGELOG.md"}},
	{"Packages", []string{"docs/soci.md", "docs/s3stream.md", "docs/dnsplugin.md", "dnsplugin/README.md", "docs/csi.md"}},
	{"Running it", []string{"docs/operations.md", "docs/configuration.md", "docs/metrics.md", "docs/s3-quirks.md", "SECURITY.md"}},
	{"Facts", []string{"docs/semantics.md", "docs/soci-tests.md", "docs/benchmarks.md"}},
	{"Working on it", []string{"CONTRIBUTING.md", "examples/"}},
	{"Decisions", []string{"docs/decisions/"}},
	{"Notes", []string{"docs/notes/"}},
}

// labels are titles for the navigation, where a page's own title says too little
// in a list of pages.
var labels = map[string]string{"dnsplugin/README.md": "dnsplugin: manual page of the directive"}

// site is the tree's pages, before they are rendered.
type site struct {
	root  string
	pages map[string]*page // by the Markdown file's name below root, with slashes
}

type page struct {
	name   string // of the Markdown file, below the root, with slashes
	out    string // of the HTML file, below the site
	title  string
	source []byte
	body   string
	ids    []string // of headings
	toc    []heading
}

type heading struct{ ID, Text string }

// isPage reports whether people read the Markdown file.
func isPage(name string) bool {
	switch {
	case !strings.HasSuffix(name, ".md"), strings.Contains(name, "testdata/"):
		return false
	case strings.HasPrefix(name, "benchmarks/"):
		return isResult(name)
	}
	return true
}

// isResult reports whether the file is the page of a benchmark run. These are
// linked, and not in the navigation.
func isResult(name string) bool { return strings.Contains(name, "/results/") }

// load reads all pages below root.
func load(root string) (*site, error) {
	s := &site{root: root, pages: map[string]*page{}}
	err := filepath.WalkDir(root, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, file)
		if err != nil {
			return err
		}
		name := filepath.ToSlash(rel)
		if d.IsDir() {
			if name != "." && (strings.HasPrefix(d.Name(), ".") || name == "site" || name == "bin") {
				return fs.SkipDir
			}
			return nil
		}
		if !isPage(name) {
			return nil
		}
		source, err := os.ReadFile(file) //nolint:gosec // G122: our own tree, which does not change meanwhile
		if err != nil {
			return err
		}
		s.pages[name] = &page{name: name, out: outputOf(name), source: source}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return s, s.checkNavigation()
}

// outputOf returns the HTML file of a Markdown file: a README is the index of
// its folder.
func outputOf(name string) string {
	dir, base := path.Split(name)
	if base == "README.md" {
		return dir + "index.html"
	}
	return strings.TrimSuffix(name, ".md") + ".html"
}

// entries returns the pages of a group, in order.
func (s *site) entries(g group) []*page {
	var out []*page
	for _, e := range g.Entries {
		if !strings.HasSuffix(e, "/") {
			if p := s.pages[e]; p != nil {
				out = append(out, p)
			}
			continue
		}
		var below []*page
		for name, p := range s.pages {
			if strings.HasPrefix(name, e) && !isResult(name) {
				below = append(below, p)
			}
		}
		slices.SortFunc(below, func(a, b *page) int { return strings.Compare(a.name, b.name) })
		out = append(out, below...)
	}
	return out
}

// checkNavigation wants each page but the results in the navigation, and each
// entry to exist.
func (s *site) checkNavigation() error {
	listed := map[string]bool{}
	var bad []error
	for _, g := range groups {
		for _, e := range g.Entries {
			if !strings.HasSuffix(e, "/") && s.pages[e] == nil {
				bad = append(bad, fmt.Errorf("the navigation lists %s, which does not exist", e))
			}
		}
		for _, p := range s.entries(g) {
			listed[p.name] = true
		}
	}
	for name := range s.pages {
		if !listed[name] && !isResult(name) {
			bad = append(bad, fmt.Errorf("%s is not in the navigation: add it to groups in site.go", name))
		}
	}
	return errors.Join(bad...)
}
