package lint

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path"
	"slices"
	"strings"
	"testing"
)

// pureMarker on a line of its own says that the file only decides: its
// results depend on its arguments alone. Scripts can then test every decision
// without a clock, a network or a second goroutine.
const pureMarker = "//penstock:pure"

// mustBePure are the files whose decisions the documents call pure. Each must
// exist and carry the marker.
var mustBePure = []string{
	"dnsplugin/internal/admission/admission.go",
	"dnsplugin/internal/sides/policy.go",
	"internal/nic/picker.go",
	"internal/ranges/awake.go",
	"internal/ranges/hedge.go",
	"internal/ranges/limit.go",
	"internal/ranges/pace.go",
	"internal/ranges/pattern.go",
	"internal/ranges/plan.go",
	"internal/ranges/readahead.go",
	"internal/ranges/retry.go",
	"internal/ranges/window.go",
	"s3stream/internal/topology/plan.go",
}

// impureImports are packages of clocks, I/O, goroutines, randomness, and state that
// goroutines share. An entry covers the packages below it, too, but for those in
// pureImports.
var (
	impureImports = []string{
		"bufio", "context", "crypto/rand", "io/fs", "io/ioutil", "log", "math/rand", "net", "os", "runtime", "sync", "syscall",
		"testing", "unsafe", "golang.org/x/sync", "golang.org/x/sys",
		"hash/maphash", module + "/dnsplugin/internal/store",
	}
	pureImports = []string{"net/netip", "net/url"}
)

// clockCalls are the functions of package time that read a clock or wait.
var clockCalls = []string{"After", "AfterFunc", "NewTicker", "NewTimer", "Now", "Since", "Sleep", "Tick", "Until"}

// impurities returns what makes a file depend on more than its arguments, each
// as "line: reason".
func impurities(name, src string) ([]string, error) {
	fset := token.NewFileSet()
	f, err := parser.ParseFile(fset, name, src, parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	var found []string
	add := func(n ast.Node, format string, args ...any) {
		found = append(found, fmt.Sprintf("%d: ", fset.Position(n.Pos()).Line)+fmt.Sprintf(format, args...))
	}
	for _, imp := range f.Imports {
		p := strings.Trim(imp.Path.Value, `"`)
		covers := func(i string) bool { return under(p, i) }
		if slices.ContainsFunc(impureImports, covers) && !slices.ContainsFunc(pureImports, covers) {
			add(imp, "imports %s", p)
		}
	}
	ast.Inspect(f, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.SelectorExpr:
			if x, ok := n.X.(*ast.Ident); ok && x.Name == "time" && slices.Contains(clockCalls, n.Sel.Name) {
				add(n, "calls time.%s: take the time as an argument", n.Sel.Name)
			}
		case *ast.GoStmt:
			add(n, "starts a goroutine")
		case *ast.ChanType, *ast.SelectStmt, *ast.SendStmt:
			add(n, "uses a channel")
		}
		return true
	})
	return found, nil
}

// marked reports whether a file carries the marker.
func marked(src string) bool { return slices.Contains(strings.Split(src, "\n"), pureMarker) }

// declares reports whether a file declares anything; a file with nothing but the
// documentation of its package needs no marker.
func declares(t *testing.T, name, src string) bool {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), name, src, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	return len(f.Decls) > 0
}

// TestPureFiles checks that marked files are pure, and that files without a marker
// in their packages are not: a file that could carry the marker must carry
// it, so that a new decision is pure from its first day on.
func TestPureFiles(t *testing.T) {
	t.Parallel()
	sources := map[string]string{}
	packagesOfMarked := map[string]bool{}
	for _, f := range files(t, ".go") {
		if strings.HasSuffix(f, "_test.go") || strings.Contains(f, "/testdata/") {
			continue
		}
		sources[f] = read(t, f)
		if marked(sources[f]) {
			packagesOfMarked[path.Dir(f)] = true
		}
	}
	for _, f := range mustBePure {
		switch src, ok := sources[f]; {
		case !ok:
			t.Errorf("%s is in mustBePure and does not exist", f)
		case !marked(src):
			t.Errorf("%s is in mustBePure and has no line %s", f, pureMarker)
		}
	}
	for f, src := range sources {
		if !packagesOfMarked[path.Dir(f)] || !declares(t, f, src) {
			continue
		}
		found, err := impurities(f, src)
		switch {
		case err != nil:
			t.Error(err)
		case marked(src):
			for _, why := range found {
				t.Errorf("%s:%s; the file is marked %s", f, why, pureMarker)
			}
		case len(found) == 0:
			t.Errorf("%s has no clock, I/O or goroutine and lies beside marked files: add the line %s", f, pureMarker)
		}
	}
}

// TestPureFilesRefuse shows that the rule finds each kind of impurity.
func TestPureFilesRefuse(t *testing.T) {
	t.Parallel()
	for src, want := range map[string]string{
		`import "time"; var d = 5 * time.Second`:              "",
		`import "net/netip"; var a netip.Addr`:                "",
		`import "errors"; var e = errors.New("x")`:            "",
		`import "time"; var t = time.Now()`:                   "time.Now",
		`import "time"; var t = time.AfterFunc`:               "time.AfterFunc",
		`import "sync"; var mu sync.Mutex`:                    "imports sync",
		`import "sync/atomic"; var n atomic.Int64`:            "imports sync/atomic",
		`import "net/http"; var c http.Client`:                "imports net/http",
		`import "os"; var a = os.Args`:                        "imports os",
		`import "context"; var c context.Context`:             "imports context",
		`import "math/rand/v2"; var n = rand.Int()`:           "imports math/rand/v2",
		`func f() { go f() }`:                                 "goroutine",
		`func f(c chan int) { c <- 1 }`:                       "channel",
		`func f(c []interface{}) { select {} }`:               "channel",
		`import "golang.org/x/sys/unix"; var x = unix.O_PATH`: "imports golang.org/x/sys/unix",
	} {
		found, err := impurities("x.go", "package x\n"+src)
		if err != nil {
			t.Fatal(err)
		}
		if all := strings.Join(found, "\n"); (want == "") != (all == "") || !strings.Contains(all, want) {
			t.Errorf("%s: found %q, want %q", src, all, want)
		}
	}
	if !marked("// Package x.\n\n"+pureMarker+"\n\npackage x") || marked("// "+pureMarker+"\npackage x") {
		t.Error("the marker is a line of its own")
	}
}
