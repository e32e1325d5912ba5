package prose

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"sort"
	"strconv"
	"strings"
)

// A Finding is one occurrence of a habit.
type Finding struct {
	File  string // relative to the top of the tree, with slashes
	Line  int    // of the file, from 1
	Habit string // its Name
	Text  string // the sentence around it, cut to one line
}

// A Unit is the prose of one folder.
type Unit struct {
	Dir      string
	Lines    int // of prose
	Findings []Finding
}

// Count returns how often the unit shows the habit.
func (u *Unit) Count(habit string) int {
	n := 0
	for _, f := range u.Findings {
		if f.Habit == habit {
			n++
		}
	}
	return n
}

// Tree reads the Go and Markdown files given, whose paths are relative to top,
// and returns one unit for each folder, sorted by folder. Other files are
// ignored, as are files below a folder testdata or results.
func Tree(top string, files []string) ([]*Unit, error) {
	byDir := map[string]*Unit{}
	for _, name := range files {
		name = filepath.ToSlash(name)
		if strings.Contains("/"+name, "/testdata/") || strings.Contains("/"+name, "/results/") {
			continue
		}
		read := readerOf(name)
		if read == nil {
			continue
		}
		src, err := os.ReadFile(filepath.Join(top, name))
		if err != nil {
			return nil, fmt.Errorf("prose: %w", err)
		}
		texts, err := read(name, src)
		if err != nil {
			return nil, fmt.Errorf("prose: %w", err)
		}
		dir := path.Dir(name)
		u := byDir[dir]
		if u == nil {
			u = &Unit{Dir: dir}
			byDir[dir] = u
		}
		for _, t := range texts {
			u.Lines += len(t.starts)
			u.Findings = append(u.Findings, t.findings(name)...)
		}
	}
	units := make([]*Unit, 0, len(byDir))
	for _, u := range byDir {
		units = append(units, u)
	}
	sort.Slice(units, func(i, j int) bool { return units[i].Dir < units[j].Dir })
	return units, nil
}

func readerOf(name string) func(string, []byte) ([]text, error) {
	switch {
	case strings.HasSuffix(name, ".go"):
		return goTexts
	case strings.HasSuffix(name, ".md"):
		return markdownTexts
	}
	return nil
}

// A text is consecutive lines of prose, joined by spaces, so that a sentence is
// found over the end of a line.
type text struct {
	joined string
	starts []int // the offset in joined at which each line starts
	lines  []int // the line of the file of each
}

func (t *text) add(line int, s string) {
	if t.joined != "" {
		t.joined += " "
	}
	t.starts = append(t.starts, len(t.joined))
	t.lines = append(t.lines, line)
	t.joined += s
}

func (t *text) findings(file string) []Finding {
	var out []Finding
	unquoted := quoted.ReplaceAllStringFunc(t.joined, func(q string) string { return strings.Repeat("-", len(q)) })
	for i := range Habits {
		h := &Habits[i]
		for _, at := range h.find(unquoted) {
			n := sort.SearchInts(t.starts, at+1) - 1
			out = append(out, Finding{file, t.lines[n], h.Name, around(t.joined, at)})
		}
	}
	sort.SliceStable(out, func(i, j int) bool { return out[i].Line < out[j].Line })
	return out
}

// quoted matches words between quotation marks, which are the words of another
// text.
var quoted = regexp.MustCompile(`"[^"]{1,250}"|“[^”]{1,250}”`)

// around returns about 70 bytes of s around an offset, at the ends of words.
func around(s string, at int) string {
	from, to := max(0, at-30), min(len(s), at+45)
	for from > 0 && s[from-1] != ' ' {
		from--
	}
	for to < len(s) && s[to] != ' ' {
		to++
	}
	return s[from:to]
}

// goTexts returns the comments of a Go file, group by group, and the string
// literals of a file that is not a test.
func goTexts(name string, src []byte) ([]text, error) {
	fset := token.NewFileSet()
	f, err := parser.ParseFile(fset, name, src, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	var out []text
	for _, group := range f.Comments {
		out = append(out, commentTexts(fset, group)...)
	}
	if strings.HasSuffix(name, "_test.go") {
		return out, nil
	}
	ast.Inspect(f, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.ImportSpec:
			return false
		case *ast.Field:
			if n.Tag != nil {
				return false
			}
		case *ast.BasicLit:
			if n.Kind != token.STRING {
				break
			}
			s, err := strconv.Unquote(n.Value)
			if err != nil || len(strings.Fields(s)) < 3 {
				break
			}
			var t text
			first := fset.Position(n.Pos()).Line
			raw := n.Value[0] == '`'
			for i, l := range strings.Split(s, "\n") {
				line := first
				if raw {
					line += i
				}
				t.add(line, strings.TrimSpace(l))
			}
			out = append(out, t)
		}
		return true
	})
	return out, nil
}

// commentTexts returns the text of a comment group. An indented line is code
// and ends a text, as does an empty one.
func commentTexts(fset *token.FileSet, group *ast.CommentGroup) []text {
	var out []text
	var t text
	flush := func() {
		if len(t.starts) > 0 {
			out = append(out, t)
		}
		t = text{}
	}
	for _, c := range group.List {
		line := fset.Position(c.Pos()).Line
		body, ok := strings.CutPrefix(c.Text, "//")
		if !ok {
			body = strings.TrimSuffix(strings.TrimPrefix(c.Text, "/*"), "*/")
		} else if isDirective(body) {
			continue
		}
		for i, l := range strings.Split(body, "\n") {
			if s := strings.TrimSpace(l); s == "" || strings.HasPrefix(l, "\t") || strings.HasPrefix(l, "  ") && ok {
				flush()
			} else {
				t.add(line+i, s)
			}
		}
	}
	flush()
	return out
}

// isDirective reports whether a line comment without its slashes is for a
// program: go:build, nolint, want.
func isDirective(body string) bool {
	word, _, found := strings.Cut(body, ":")
	return found && word != "" && !strings.ContainsAny(word, " \t") || strings.HasPrefix(body, "nolint")
}

var inlineCode = regexp.MustCompile("`[^`]*`")

// markdownTexts returns the paragraphs, items and rows of a Markdown file. Code
// and headings are left out.
func markdownTexts(_ string, src []byte) ([]text, error) {
	var out []text
	var t text
	flush := func() {
		if len(t.starts) > 0 {
			out = append(out, t)
		}
		t = text{}
	}
	fenced := false
	for i, l := range strings.Split(string(src), "\n") {
		s := strings.TrimSpace(l)
		switch {
		case strings.HasPrefix(s, "```"):
			fenced = !fenced
			flush()
			continue
		case fenced:
			continue
		case strings.HasPrefix(s, "#"): // a heading may be a question
			flush()
			continue
		case s == "" || strings.HasPrefix(l, "    "):
			flush()
			continue
		case strings.HasPrefix(s, "|") || strings.HasPrefix(s, "- "):
			flush()
		}
		t.add(i+1, inlineCode.ReplaceAllString(s, "`code`"))
	}
	flush()
	return out, nil
}
