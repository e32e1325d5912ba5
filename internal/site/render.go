package main

import (
	"bytes"
	"cmp"
	_ "embed"
	"errors"
	"fmt"
	"html/template"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/yuin/goldmark"
	"github.com/yuin/goldmark/ast"
	"github.com/yuin/goldmark/extension"
	"github.com/yuin/goldmark/parser"
	"github.com/yuin/goldmark/text"
	"github.com/yuin/goldmark/util"
)

var (
	//go:embed page.html
	pageSource string
	//go:embed style.css
	style []byte

	picture = regexp.MustCompile(`<img src="([^"]*)"[^>]*>`)

	layout = template.Must(template.New("page").Parse(pageSource))
)

// view is the layout's input.
type view struct {
	Title, Style, Home, Source string
	Body                       template.HTML
	Groups                     []navigation
}

type navigation struct {
	Title   string
	Entries []entry
}

type entry struct {
	Title, Link string
	Here        bool
	Parts       []heading // of the page itself
}

// render returns the files of the site by name.
func (s *site) render() (map[string][]byte, error) {
	files := map[string][]byte{marker: style}
	var bad []error
	for _, p := range s.pages {
		if err := s.parse(p, files); err != nil {
			bad = append(bad, fmt.Errorf("%s: %w", p.name, err))
		}
	}
	if err := errors.Join(bad...); err != nil {
		return nil, err
	}
	for _, p := range s.pages {
		var b bytes.Buffer
		if err := layout.Execute(&b, s.view(p)); err != nil {
			return nil, err
		}
		files[p.out] = b.Bytes()
	}
	return files, nil
}

func (s *site) view(p *page) view {
	v := view{
		Title: p.title, Style: relative(p.out, marker), Home: relative(p.out, "index.html"),
		Source: repository + "/blob/main/" + p.name,
		Body:   template.HTML(p.body), //nolint:gosec // G203: goldmark's output of our own tree, without raw HTML
	}
	for _, g := range groups {
		n := navigation{Title: g.Title}
		for _, q := range s.entries(g) {
			e := entry{Title: cmp.Or(labels[q.name], q.title), Link: relative(p.out, q.out), Here: p == q}
			if e.Here {
				e.Parts = p.toc
			}
			n.Entries = append(n.Entries, e)
		}
		v.Groups = append(v.Groups, n)
	}
	return v
}

// parse renders the body of a page and puts the assets that it shows into files.
func (s *site) parse(p *page, files map[string][]byte) error {
	md := goldmark.New(goldmark.WithExtensions(extension.Table), goldmark.WithParserOptions(parser.WithAutoHeadingID()))
	ids := &anchors{seen: map[string]int{}}
	doc := md.Parser().Parse(text.NewReader(p.source), parser.WithContext(parser.NewContext(parser.WithIDs(ids))))
	var bad []error
	err := ast.Walk(doc, func(n ast.Node, entering bool) (ast.WalkStatus, error) {
		if !entering {
			return ast.WalkContinue, nil
		}
		var err error
		switch n := n.(type) {
		case *ast.Heading:
			p.note(n)
		case *ast.Link:
			n.Destination, err = s.target(p, n.Destination, files)
		case *ast.Image:
			n.Destination, err = s.target(p, n.Destination, files)
		}
		if err != nil {
			bad = append(bad, err)
		}
		return ast.WalkContinue, nil
	})
	if err := errors.Join(append(bad, err)...); err != nil {
		return err
	}
	var b bytes.Buffer
	if err := md.Renderer().Render(&b, p.source, doc); err != nil {
		return err
	}
	// A wide table scrolls inside its own box, so that a phone keeps the page's width.
	p.body = strings.NewReplacer("<table>", `<div class="scroll"><table>`, "</table>", "</table></div>").Replace(b.String())
	// A plot is wider than a phone: the picture leads to itself, where it can be enlarged.
	p.body = picture.ReplaceAllString(p.body, `<a href="$1">$0</a>`)
	p.ids = ids.all
	if p.title == "" {
		return errors.New("no heading of the first level")
	}
	return nil
}

// note takes the title and the parts of a page from a heading.
func (p *page) note(h *ast.Heading) {
	words := plain(h, p.source)
	if h.Level == 1 && p.title == "" {
		p.title = words
	}
	if id, ok := h.AttributeString("id"); ok && h.Level == 2 {
		if id, ok := id.([]byte); ok {
			p.toc = append(p.toc, heading{ID: string(id), Text: words})
		}
	}
}

// plain returns the text of a node without its markup.
func plain(n ast.Node, source []byte) string {
	var b strings.Builder
	_ = ast.Walk(n, func(n ast.Node, entering bool) (ast.WalkStatus, error) { // the function returns no error
		if t, ok := n.(*ast.Text); ok && entering {
			b.Write(t.Segment.Value(source))
		}
		return ast.WalkContinue, nil
	})
	return b.String()
}

// target returns where a link of page p leads on the site.
func (s *site) target(p *page, destination []byte, files map[string][]byte) ([]byte, error) {
	dest := string(destination)
	name, fragment, _ := strings.Cut(dest, "#")
	if strings.Contains(dest, ":") || name == "" {
		return destination, nil // an address, or a part of this page
	}
	full := path.Join(path.Dir(p.name), name)
	if fragment != "" {
		fragment = "#" + fragment
	}
	if q := s.pages[full]; q != nil {
		return []byte(relative(p.out, q.out) + fragment), nil
	}
	file := filepath.Join(s.root, filepath.FromSlash(full))
	info, err := os.Stat(file)
	switch {
	case err != nil:
		return nil, fmt.Errorf("link to %s: %w", dest, err)
	case info.IsDir():
		return []byte(repository + "/tree/main/" + full), nil
	case strings.HasSuffix(full, ".svg"), strings.HasSuffix(full, ".png"):
		files[full], err = os.ReadFile(file)
		return []byte(relative(p.out, full)), err
	}
	return []byte(repository + "/blob/main/" + full + fragment), nil
}

// relative returns the link from one file of the site to another.
func relative(from, to string) string {
	up := strings.Repeat("../", strings.Count(from, "/"))
	return up + to
}

// anchors makes the identifiers of headings as GitHub does, so that one link
// works in both places.
type anchors struct {
	seen map[string]int
	all  []string
}

// Generate returns the identifier of a heading's text.
func (a *anchors) Generate(value []byte, _ ast.NodeKind) []byte {
	id := slug(string(value))
	n := a.seen[id]
	a.seen[id]++
	if n > 0 {
		id = fmt.Sprintf("%s-%d", id, n)
	}
	a.all = append(a.all, id)
	return []byte(id)
}

// Put notes an identifier that the text gives itself.
func (a *anchors) Put(value []byte) { a.all = append(a.all, util.BytesToReadOnlyString(value)) }

// slug is GitHub's rule: lower case, spaces to hyphens, letters, digits, hyphens
// and underscores stay.
func slug(heading string) string {
	var b strings.Builder
	for _, r := range strings.ToLower(strings.TrimSpace(heading)) {
		switch {
		case r == ' ':
			b.WriteByte('-')
		case r == '-' || r == '_' || r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r >= 0x80:
			b.WriteRune(r)
		}
	}
	return b.String()
}
