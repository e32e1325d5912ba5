package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/penstock/penstock/internal/testorigin"
)

// smallTree makes a tree with the kinds of entries that the Go tree has.
func smallTree(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	for path, text := range map[string]string{"src/a.go": "package a", "src/cmd/b.go": "package b", "lib/c": ""} {
		p := filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("a.go", filepath.Join(root, "src", "link")); err != nil {
		t.Fatal(err)
	}
	return root
}

// Both clients of ours leave the tree that was packed, and compare sees every
// kind of difference.
func TestPullsLeaveTheTree(t *testing.T) {
	t.Parallel()
	img, err := pack(t.Context(), smallTree(t), t.TempDir(), [][]string{{"src/cmd"}, {"src"}, {"lib", "missing"}})
	if err != nil {
		t.Fatal(err)
	}
	o, err := testorigin.Start(testorigin.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	if err := img.push(o); err != nil {
		t.Fatal(err)
	}
	for name, pull := range map[string]puller{"ours": pullOurs, "plain": pullPlain} {
		dir := filepath.Join(t.TempDir(), "tree")
		n, err := pull(t.Context(), o.Host(), dir)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if n != img.compressed() {
			t.Errorf("%s: %d bytes, the image has %d", name, n, img.compressed())
		}
		if d := img.compare(dir); d != "" {
			t.Errorf("%s: %s", name, d)
		}
		breakAndCompare(t, img, dir)
	}
}

func breakAndCompare(t *testing.T, img *image, dir string) {
	t.Helper()
	a := filepath.Join(dir, "src", "a.go")
	steps := []struct {
		name string
		do   func() error
	}{
		{"other content", func() error { return os.WriteFile(a, []byte("package x"), 0o644) }},
		{"other size", func() error { return os.WriteFile(a, []byte("package"), 0o644) }},
		{"other kind", func() error { return replace(a, func() error { return os.Symlink("x", a) }) }},
		{"missing", func() error { return os.Remove(a) }},
		{"one too many", func() error {
			if err := os.WriteFile(a, []byte("package a"), 0o644); err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(dir, "extra"), nil, 0o644)
		}},
	}
	for _, s := range steps {
		if err := s.do(); err != nil {
			t.Fatal(err)
		}
		if img.compare(dir) == "" {
			t.Errorf("%s: not seen", s.name)
		}
	}
}

func replace(path string, with func() error) error {
	if err := os.Remove(path); err != nil {
		return err
	}
	return with()
}

func TestOptionsSayWhatIsWrong(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"x"}, {"-rounds", "0"}, {"-conn-rate", "1"}, {"-nonsense"}} {
		if _, err := parseOptions(args); err == nil {
			t.Errorf("%v: no error", args)
		}
	}
}
