package redacttest

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"log/slog"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"unsafe"
)

// suspicious are names of fields that may hold a secret.
var suspicious = regexp.MustCompile(`(?i)secret|token|passw|credential|private|bearer|key`)

// sentinel is the value of every secret.
const sentinel = "hunter2-must-not-show"

// Check fills every field of the samples whose name sounds like a secret, in
// nested structs of this module as well, prints the samples in every way that a
// log or an error message might, and fails if a secret shows. samples are
// pointers to the exported structs of the package in the current folder, and
// each of them must be there. harmless maps fields, written Type.Field, to the
// reason why they are not secret. An entry that is not needed fails the check.
func Check(t testing.TB, harmless map[string]string, samples ...any) {
	t.Helper()
	c := &checker{harmless: harmless, used: map[string]bool{}}
	have := map[string]bool{}
	for _, s := range samples {
		v := reflect.ValueOf(s).Elem()
		have[v.Type().Name()] = true
		c.fill(v, 0)
		c.print(t, s, v)
	}
	for _, name := range exportedStructs(t) {
		if !have[name] {
			t.Errorf("%s is an exported struct: add new(%s) to the samples", name, name)
		}
		delete(have, name)
	}
	for name := range have {
		t.Errorf("%s is a sample but not an exported struct of this folder", name)
	}
	for name, reason := range harmless {
		if !c.used[name] || reason == "" {
			t.Errorf("%s is listed as harmless: there is no such field, its name is not suspicious, or the reason is missing", name)
		}
	}
}

type checker struct {
	harmless map[string]string
	used     map[string]bool
}

// maxDepth of nested structs; it ends recursive types.
const maxDepth = 8

// fill sets the secrets in v, unexported fields included.
func (c *checker) fill(v reflect.Value, depth int) {
	if v.Kind() != reflect.Struct || depth > maxDepth || !strings.HasPrefix(v.Type().PkgPath(), "github.com/penstock/penstock/") {
		return
	}
	for i := range v.NumField() {
		field, f := v.Type().Field(i), v.Field(i)
		f = reflect.NewAt(f.Type(), unsafe.Pointer(f.UnsafeAddr())).Elem() //nolint:gosec // tests set unexported fields too
		name := v.Type().Name() + "." + field.Name
		isText := f.Kind() == reflect.String || f.Type() == reflect.TypeFor[[]byte]()
		switch {
		case isText && suspicious.MatchString(field.Name) && c.harmless[name] != "":
			c.used[name] = true
		case f.Kind() == reflect.String && suspicious.MatchString(field.Name):
			f.SetString(sentinel)
		case isText && suspicious.MatchString(field.Name):
			f.SetBytes([]byte(sentinel))
		default:
			c.fill(f, depth+1)
		}
	}
}

// holder shows how a value prints inside another one.
type holder struct {
	Value any
	List  []any
	Map   map[string]any
}

// print prints a sample, s being the pointer and v the value.
func (c *checker) print(t testing.TB, s any, v reflect.Value) {
	t.Helper()
	shapes := []any{s, holder{Value: s}}
	if !noCopy(v.Type()) {
		value := v.Interface()
		shapes = append(shapes, value, holder{value, []any{value}, map[string]any{"k": value}})
	}
	for _, shape := range shapes {
		var out []string
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
			out = append(out, fmt.Sprintf(verb, shape))
		}
		if data, err := json.Marshal(shape); err == nil { // a func has no JSON form, so it shows nothing there
			out = append(out, string(data))
		}
		var log bytes.Buffer
		slog.New(slog.NewTextHandler(&log, nil)).Info("sample", "v", shape)
		slog.New(slog.NewJSONHandler(&log, nil)).Info("sample", "v", shape)
		for _, text := range append(out, log.String()) {
			for _, form := range []string{sentinel, fmt.Sprintf("%x", sentinel), base64.StdEncoding.EncodeToString([]byte(sentinel)), strings.Trim(fmt.Sprint([]byte(sentinel)), "[]")} {
				if strings.Contains(text, form) {
					t.Errorf("%s shows a secret in %T: %s", v.Type(), shape, text)
				}
			}
		}
	}
}

// noCopy reports whether values of a type must not be copied, for example because
// they hold a lock.
func noCopy(typ reflect.Type) bool {
	if _, ok := reflect.PointerTo(typ).MethodByName("Lock"); ok {
		return true
	}
	if strings.HasPrefix(typ.PkgPath(), "sync") {
		return true
	}
	if typ.Kind() == reflect.Struct {
		for field := range typ.Fields() {
			if noCopy(field.Type) {
				return true
			}
		}
	}
	return false
}

// exportedStructs returns the names of the exported structs in this folder.
func exportedStructs(t testing.TB) []string {
	t.Helper()
	files, err := filepath.Glob("*.go")
	if err != nil || len(files) == 0 {
		t.Fatalf("no Go files in this folder: %v", err)
	}
	var names []string
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range f.Decls {
			gen, ok := d.(*ast.GenDecl)
			if !ok {
				continue
			}
			for _, s := range gen.Specs {
				spec, ok := s.(*ast.TypeSpec)
				if !ok || spec.Assign.IsValid() || !spec.Name.IsExported() {
					continue
				}
				if _, ok := spec.Type.(*ast.StructType); ok {
					names = append(names, spec.Name.Name)
				}
			}
		}
	}
	return names
}
