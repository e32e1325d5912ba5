package lint

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

const module = "github.com/penstock/penstock"

// pkg is the part of go list's answer that the rules look at.
type pkg struct {
	ImportPath   string
	Name         string
	Dir          string
	Doc          string
	GoFiles      []string
	TestGoFiles  []string
	XTestGoFiles []string
	Imports      []string
	TestImports  []string
	XTestImports []string
	Deps         []string // of the package itself, without its tests
}

// Rel is the folder of the package from the top of the module; "" at the top.
func (p pkg) Rel() string {
	return strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/")
}

// root is the top of the repository.
var root = sync.OnceValue(func() string {
	dir, err := os.Getwd()
	if err != nil {
		panic(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		up := filepath.Dir(dir)
		if up == dir {
			panic("no go.mod above the test")
		}
		dir = up
	}
})

var listed = sync.OnceValues(func() ([]pkg, error) {
	// -e: a package that does not compile is another test's business.
	out, err := command("go", "list", "-e", "-json=ImportPath,Name,Dir,Doc,GoFiles,TestGoFiles,XTestGoFiles,Imports,TestImports,XTestImports,Deps", "./...")
	if err != nil {
		return nil, err
	}
	var pkgs []pkg
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return pkgs, nil
		} else if err != nil {
			return nil, err
		}
		if len(p.GoFiles)+len(p.TestGoFiles)+len(p.XTestGoFiles) > 0 {
			pkgs = append(pkgs, p)
		}
	}
})

// packages returns every package of the module.
func packages(t *testing.T) []pkg {
	t.Helper()
	pkgs, err := listed()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	return pkgs
}

var tracked = sync.OnceValues(func() ([]string, error) {
	out, err := command("git", "ls-files", "--cached", "--others", "--exclude-standard")
	if err != nil {
		return nil, err
	}
	return strings.Fields(string(out)), nil
})

// files returns the files of the repository with one of the endings, relative
// to the top; ignored files are not part of it.
func files(t *testing.T, endings ...string) []string {
	t.Helper()
	all, err := tracked()
	if err != nil {
		t.Skipf("not a git work tree that we may read: %v", err)
	}
	var out []string
	for _, f := range all {
		if slices.ContainsFunc(endings, func(e string) bool { return strings.HasSuffix(f, e) }) && exists(f) {
			out = append(out, f)
		}
	}
	return out
}

func exists(rel string) bool {
	_, err := os.Stat(filepath.Join(root(), rel))
	return err == nil
}

func read(t *testing.T, rel string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root(), rel))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func command(name string, args ...string) ([]byte, error) {
	cmd := exec.Command(name, args...)
	cmd.Dir = root()
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, errors.Join(err, errors.New(stderr.String()))
	}
	return out, nil
}
