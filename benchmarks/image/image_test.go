package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/penstock/penstock/benchmarks/internal/bench"
	"github.com/penstock/penstock/internal/testorigin"
	"github.com/penstock/penstock/soci"
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

// layered is an image of the tree with marks and replacements in the upper layer.
func layered(t *testing.T) *image {
	t.Helper()
	upper := t.TempDir()
	for _, name := range []string{"src/cmd/.wh.b.go", "lib/.wh..wh..opq", "lib/d", "src/link"} {
		p := filepath.Join(upper, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(strings.Repeat(name, 1000)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	img, err := pack(t.Context(), t.TempDir(), [][]source{
		{{root: smallTree(t)}, {root: smallTree(t), prefix: "deep/er", only: []string{"src/a.go"}, cut: 3}},
		{{root: upper}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// The reference tree, our puller and the plain client agree, and compare finds
// every kind of difference.
func TestPullsLeaveTheTree(t *testing.T) {
	t.Parallel()
	img := layered(t)
	if n := img.tree["deep/er/src/a.go"]; n.size != 3 {
		t.Errorf("a file that was cut: %+v", n)
	}
	for _, gone := range []string{"src/cmd/b.go", "lib/c"} {
		if _, ok := img.tree[gone]; ok {
			t.Errorf("%s is in the reference", gone)
		}
	}
	o, err := testorigin.Start(testorigin.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	if err := bench.PushImage(o, repo, tag, img.layers); err != nil {
		t.Fatal(err)
	}
	ours := func(ctx context.Context, host, dir string) (int64, error) {
		p, err := soci.New(soci.Options{HostsDir: "none"})
		if err != nil {
			return 0, err
		}
		defer p.Close()
		res, err := p.Pull(ctx, host+"/"+repo+":"+tag, dir)
		if err != nil {
			return 0, err
		}
		return res.CompressedBytes, nil
	}
	for name, pull := range map[string]func(context.Context, string, string) (int64, error){"ours": ours, "plain": pullPlain} {
		dir := filepath.Join(t.TempDir(), "tree")
		n, err := pull(t.Context(), o.Host(), dir)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if n != img.compressed() {
			t.Errorf("%s: %d bytes, the image has %d", name, n, img.compressed())
		}
		if d := img.tree.compare(dir); d != "" {
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
		if img.tree.compare(dir) == "" {
			t.Errorf("%s: not seen", s.name)
		}
	}
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

func replace(path string, with func() error) error {
	if err := os.Remove(path); err != nil {
		return err
	}
	return with()
}

func TestOptionsSayWhatIsWrong(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"x"}, {"-rounds", "0"}, {"-conn-rate", "1"}, {"-nonsense"}, {"-cases", "memory,none"}} {
		if _, err := parseOptions(args); err == nil {
			t.Errorf("%v: no error", args)
		}
	}
}

func TestLayoutThatIsNone(t *testing.T) {
	t.Parallel()
	if _, err := readLayout(t.TempDir()); err == nil || !strings.Contains(err.Error(), "no OCI image layout") {
		t.Error(err)
	}
}

// Kept cases are valid only for their own commit.
func TestKeptCases(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "kept")
	k, err := readKept(name, "abc")
	if err != nil || k.has(caseTiny) {
		t.Fatal(k, err)
	}
	k.Cases = append(k.Cases, finished{Case: caseTiny})
	if err := k.write(name); err != nil {
		t.Fatal(err)
	}
	if k, err = readKept(name, "abc"); err != nil || !k.has(caseTiny) {
		t.Error(k, err)
	}
	if _, err := readKept(name, "def"); err == nil {
		t.Error("cases of another commit were taken")
	}
}

// Each target is a verdict, and peers that did not run are left out.
func TestVerdicts(t *testing.T) {
	t.Parallel()
	sample := func(wall, cpu float64) []bench.Sample {
		return []bench.Sample{{
			Wall: seconds(wall), CPU: seconds(cpu), MaxRSS: 100 << 20, BytesSent: 1000, Outcome: bench.OutcomeOK,
			Extra: map[string]float64{extraPeak: 4000, extraWritten: 4100},
		}}
	}
	f := finished{Case: caseMemory, Image: facts{Compressed: 1000, Full: 4000}, Measured: bench.Measured{
		Contestants: []string{pullName, sociName, ctrdGo, ctrdIgzip}, Ours: []bool{true, false, false, false},
		Samples: [][]bench.Sample{sample(4, 6), sample(8, 12), sample(10, 8), sample(9, 10)},
	}}
	got := report([]finished{f}, bench.Machine{})
	if len(got.Verdicts) != 7 || len(got.Failed()) != 1 || got.Failed()[0].Got != "0.75 x" {
		t.Errorf("%+v", got.Verdicts)
	}
	f.Case = caseDisk
	if got := report([]finished{f}, bench.Machine{}); len(got.Failed()) != 2 {
		t.Errorf("on a disk the bytes written count: %+v", got.Verdicts)
	}
	f.Measured.Contestants, f.Measured.Samples = f.Measured.Contestants[:1], f.Measured.Samples[:1]
	if got := report([]finished{f}, bench.Machine{}); len(got.Verdicts) != 3 {
		t.Errorf("without peers: %+v", got.Verdicts)
	}
}
