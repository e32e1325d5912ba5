package measure

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path"
	"path/filepath"
	"strings"
	"unicode"

	"github.com/penstock/penstock/internal/lint/prose"
)

// Tree is the measure of one tree. Functions, types and names
// are counted in files other than tests.
type Tree struct {
	Files        []int // lines of each Go file that is not a test
	TestLines    int
	CommentLines int // in Go files that are not tests

	FuncLines  []int // of each function
	Complexity []int // of each function: 1 and 1 for each branch, case, && and ||
	ManyParams int   // functions with more than six parameters
	TwoBools   int   // functions with two parameters of type bool or more

	Fields     []int          // of each struct
	Longest    map[string]int // the longest functions, by "package.name"
	Packages   map[string]int // functions of each package
	Globals    map[string]int // package-level variables in lower case that are one word, by package
	Ambiguous  map[string]int // names that stand for at least two kinds of things four times, by package
	Exported   map[string]int // exported names of each package outside of internal folders
	Tests      int
	LongMDLine int // lines of Markdown above 130 characters
	Prose      []*prose.Unit
}

// Lines returns the number of lines of Go files that are not tests.
func (t *Tree) Lines() int {
	n := 0
	for _, l := range t.Files {
		n += l
	}
	return n
}

// Read measures the files of a tree, whose paths are relative to top.
func Read(top string, files []string) (*Tree, error) {
	t := &Tree{Longest: map[string]int{}, Packages: map[string]int{}, Globals: map[string]int{}, Ambiguous: map[string]int{}, Exported: map[string]int{}}
	meanings := map[string]map[string][]string{} // by folder and name, the kinds
	for _, name := range files {
		if strings.Contains("/"+name, "/testdata/") || strings.Contains("/"+name, "/results/") {
			continue
		}
		src, err := os.ReadFile(filepath.Join(top, name))
		if err != nil {
			return nil, err
		}
		switch {
		case strings.HasSuffix(name, ".md"):
			t.addMarkdown(string(src))
		case strings.HasSuffix(name, "_test.go"):
			t.TestLines += strings.Count(string(src), "\n")
			t.Tests += strings.Count(string(src), "\nfunc Test")
		case strings.HasSuffix(name, ".go"):
			if err := t.addGo(name, src, meanings); err != nil {
				return nil, err
			}
		}
	}
	for dir, names := range meanings {
		for _, kinds := range names {
			different := map[string]bool{}
			for _, k := range kinds {
				different[k] = true
			}
			if len(kinds) >= 4 && len(different) >= 2 {
				t.Ambiguous[dir]++
			}
		}
	}
	var err error
	t.Prose, err = prose.Tree(top, files)
	return t, err
}

func (t *Tree) addMarkdown(src string) {
	for l := range strings.Lines(src) {
		if len([]rune(l)) > 130 && !strings.HasPrefix(l, "|") {
			t.LongMDLine++
		}
	}
}

func (t *Tree) addGo(name string, src []byte, meanings map[string]map[string][]string) error {
	fset := token.NewFileSet()
	f, err := parser.ParseFile(fset, name, src, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	dir := path.Dir(name)
	t.Files = append(t.Files, strings.Count(string(src), "\n"))
	for _, group := range f.Comments {
		t.CommentLines += fset.Position(group.End()).Line - fset.Position(group.Pos()).Line + 1
	}
	if meanings[dir] == nil {
		meanings[dir] = map[string][]string{}
	}
	mean := func(name, kind string) {
		if name != "" && unicode.IsLower([]rune(name)[0]) {
			meanings[dir][name] = append(meanings[dir][name], kind)
		}
	}
	public := !strings.Contains("/"+dir+"/", "/internal/") && f.Name.Name != "main" && !strings.HasPrefix(dir, "benchmarks") && !strings.HasPrefix(dir, "examples")
	export := func(name string) {
		if public && ast.IsExported(name) {
			t.Exported[dir]++
		}
	}
	for _, d := range f.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			t.addFunc(fset, dir, d)
			if d.Recv == nil {
				mean(d.Name.Name, "func")
				export(d.Name.Name)
			} else {
				mean(d.Name.Name, "method")
			}
		case *ast.GenDecl:
			for _, s := range d.Specs {
				t.addSpec(dir, d.Tok, s, mean, export)
			}
		}
	}
	return nil
}

func (t *Tree) addSpec(dir string, tok token.Token, s ast.Spec, mean func(name, kind string), export func(string)) {
	switch s := s.(type) {
	case *ast.TypeSpec:
		mean(s.Name.Name, "type")
		export(s.Name.Name)
		st, ok := s.Type.(*ast.StructType)
		if !ok {
			return
		}
		n := 0
		for _, field := range st.Fields.List {
			n += max(1, len(field.Names))
			for _, id := range field.Names {
				mean(id.Name, "field")
			}
		}
		t.Fields = append(t.Fields, n)
	case *ast.ValueSpec:
		for _, id := range s.Names {
			mean(id.Name, tok.String())
			export(id.Name)
			if len(id.Name) > 2 && id.Name == strings.ToLower(id.Name) {
				t.Globals[dir]++
			}
		}
	}
}

func (t *Tree) addFunc(fset *token.FileSet, dir string, d *ast.FuncDecl) {
	lines := fset.Position(d.End()).Line - fset.Position(d.Pos()).Line + 1
	t.FuncLines = append(t.FuncLines, lines)
	t.Packages[dir]++
	t.Longest[dir+"."+d.Name.Name] = max(lines, t.Longest[dir+"."+d.Name.Name])
	params, bools := 0, 0
	for _, p := range d.Type.Params.List {
		n := max(1, len(p.Names))
		params += n
		if id, ok := p.Type.(*ast.Ident); ok && id.Name == "bool" {
			bools += n
		}
	}
	if params > 6 {
		t.ManyParams++
	}
	if bools > 1 {
		t.TwoBools++
	}
	if d.Body != nil {
		t.Complexity = append(t.Complexity, complexity(d.Body))
	}
}

// complexity is McCabe's: the number of paths that do not depend on each other.
func complexity(body *ast.BlockStmt) int {
	c := 1
	ast.Inspect(body, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.IfStmt, *ast.ForStmt, *ast.RangeStmt:
			c++
		case *ast.CaseClause:
			if n.List != nil {
				c++
			}
		case *ast.CommClause:
			if n.Comm != nil {
				c++
			}
		case *ast.BinaryExpr:
			if n.Op == token.LAND || n.Op == token.LOR {
				c++
			}
		}
		return true
	})
	return c
}
