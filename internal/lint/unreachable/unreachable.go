package unreachable

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/build"
	"go/format"
	"go/parser"
	"go/token"
	"io"
	"path/filepath"
	"slices"
	"strings"
)

// A Func is a function that deadcode cannot reach.
type Func struct {
	Name string // "soci/internal/untar.NewMeter", "internal/nic.Dialer.Stats"
	Pos  string // "file.go:12"
}

// Parse reads the output of deadcode -json. Names lose the module's path and
// generated code is left out.
func Parse(module string, out []byte) ([]Func, error) {
	if len(bytes.TrimSpace(out)) == 0 {
		return nil, nil // deadcode prints nothing when it finds nothing
	}
	var pkgs []struct {
		Path  string
		Funcs []struct {
			Name     string
			Position struct {
				File string
				Line int
			}
			Generated bool
		}
	}
	if err := json.Unmarshal(out, &pkgs); err != nil {
		return nil, fmt.Errorf("output of deadcode: %w", err)
	}
	var funcs []Func
	for _, p := range pkgs {
		for _, f := range p.Funcs {
			if f.Generated {
				continue
			}
			name := strings.TrimPrefix(p.Path, module+"/") + "." + f.Name
			funcs = append(funcs, Func{name, fmt.Sprintf("%s:%d", f.Position.File, f.Position.Line)})
		}
	}
	return funcs, nil
}

// ReadAllowed reads lines "NAME: REASON" and returns the reasons by name. NAME is
// the Name of a Func, or a package followed by ".*" for all of its functions. Empty
// lines and lines that start with # are comments.
func ReadAllowed(r io.Reader) (map[string]string, error) {
	allowed := map[string]string{}
	sc := bufio.NewScanner(r)
	for n := 1; sc.Scan(); n++ {
		line := strings.TrimSpace(sc.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, reason, _ := strings.Cut(line, ": ")
		if strings.TrimSpace(reason) == "" {
			return nil, fmt.Errorf("line %d of the allow-list: %q, want NAME: REASON", n, line)
		}
		if allowed[name] != "" {
			return nil, fmt.Errorf("line %d of the allow-list: %s stands twice", n, name)
		}
		allowed[name] = reason
	}
	return allowed, sc.Err()
}

// Compare returns one line for each unreachable function that the list does not
// allow, and for each entry of the list that is not needed.
func Compare(funcs []Func, allowed map[string]string) []string {
	var problems []string
	used := map[string]bool{}
	for _, f := range funcs {
		entry := f.Name
		if allowed[entry] == "" {
			slash := strings.LastIndexByte(f.Name, '/') + 1
			pkg, _, _ := strings.Cut(f.Name[slash:], ".")
			entry = f.Name[:slash] + pkg + ".*"
		}
		if allowed[entry] == "" {
			problems = append(problems, fmt.Sprintf("%s: no program and no user can reach %s: give it a caller, remove it, or write its reason into the allow-list", f.Pos, f.Name))
			continue
		}
		used[entry] = true
	}
	for name := range allowed {
		if !used[name] {
			problems = append(problems, fmt.Sprintf("the allow-list names %s, which is reachable or gone: remove the line", name))
		}
	}
	slices.Sort(problems)
	return problems
}

// Roots writes a program that refers to every exported function, variable and
// type of the packages, so that deadcode takes everything a user of the library
// can call as reachable. The program does nothing. The paths are relative to
// the module, whose top folder is top.
func Roots(w io.Writer, module, top string, paths []string) error {
	var imports, roots bytes.Buffer
	for i, path := range paths {
		pkg, err := build.ImportDir(filepath.Join(top, path), 0)
		if err != nil {
			return err
		}
		names, err := exported(pkg)
		if err != nil {
			return err
		}
		name := fmt.Sprintf("p%d", i)
		for _, n := range names {
			fmt.Fprintf(&roots, n+",\n", name)
		}
		if len(names) == 0 {
			name = "_" // imported for its effect
		}
		fmt.Fprintf(&imports, "%s %q\n", name, module+"/"+path)
	}
	src := fmt.Sprintf("package main\n\nimport (\n\"fmt\"\n\"io\"\n\n%s)\n\nfunc main() { fmt.Fprint(io.Discard, roots...) }\n\nvar roots = []any{\n%s}\n", &imports, &roots)
	out, err := format.Source([]byte(src))
	if err != nil {
		return err
	}
	_, err = w.Write(out)
	return err
}

// exported returns an expression for each exported name of the package that is
// not a constant, with %s for the package. Generic ones are left out: deadcode
// needs an instance, which their callers are.
func exported(pkg *build.Package) ([]string, error) {
	var out []string
	fset := token.NewFileSet()
	for _, name := range pkg.GoFiles {
		f, err := parser.ParseFile(fset, filepath.Join(pkg.Dir, name), nil, parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		for _, d := range f.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				if d.Recv == nil && d.Name.IsExported() && d.Type.TypeParams == nil {
					out = append(out, "%s."+d.Name.Name)
				}
			case *ast.GenDecl:
				for _, s := range d.Specs {
					out = append(out, exportedSpec(d.Tok, s)...)
				}
			}
		}
	}
	return out, nil
}

func exportedSpec(tok token.Token, s ast.Spec) []string {
	var out []string
	switch s := s.(type) {
	case *ast.TypeSpec:
		if s.Name.IsExported() && s.TypeParams == nil {
			out = append(out, "new(%s."+s.Name.Name+")")
		}
	case *ast.ValueSpec:
		for _, n := range s.Names {
			if tok == token.VAR && n.IsExported() {
				out = append(out, "&%s."+n.Name)
			}
		}
	}
	return out
}
