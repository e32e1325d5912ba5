package figures

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The documents state the newest recorded figures. Where this fails, run
// make figures.
func TestFiguresAreUpToDate(t *testing.T) {
	t.Parallel()
	root := filepath.Join("..", "..")
	texts, err := render(root)
	if err != nil {
		t.Fatal(err)
	}
	if len(texts) < 2 {
		t.Fatalf("%d documents have figures, want README.md and docs/benchmarks.md at least", len(texts))
	}
	for name, want := range texts {
		got, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != want {
			t.Errorf("%s has old figures: run make figures", name)
		}
	}
}

// write puts a result of the area engine into root.
func write(t *testing.T, root, run, date, got string) {
	t.Helper()
	dir := filepath.Join(root, "benchmarks", "engine", "results", run)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	text := `{"area": "engine", "command": "make bench AREA=engine",
		"machine": {"cpu": "a CPU", "cores": 2, "commit": "` + run + `", "date": "` + date + `"},
		"tables": [{"title": "` + got + `", "columns": ["client", "CPU"], "rows": [["ours", "1.5 (1-2)"]]}],
		"verdicts": [{"claim": "CPU", "target": "<= 1 x", "got": "` + got + ` x", "ok": false}]}`
	if err := os.WriteFile(filepath.Join(dir, "result.json"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestNewestResultWins(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	write(t, root, "b-old", "2026-01-01T00:00:00Z", "2.0")
	write(t, root, "a-new", "2026-02-01T00:00:00Z", "1.2345")
	text, err := block(root, "engine", "../")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"**1.2345** (a-new)", "**2.0** (b-old)", // each table of its newest result
		"| CPU           | <= 1 x | 1.2345 x |",
		"Targets: 0 of 1 met",
		"../benchmarks/engine/results/a-new/plot.svg",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	a, err := load(root, "engine")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := a.verdict("CPU"); err != nil || got != "1.23 x" {
		t.Errorf("verdict is %q, %v", got, err)
	}
	if got, err := a.cell("2.0", "ours", "CPU"); err != nil || got != "1.5" {
		t.Errorf("cell is %q, %v", got, err)
	}
	if _, err := a.cell("2.0", "theirs", "CPU"); err == nil {
		t.Error("a row that no result has is not an error")
	}
}

func TestBlocksAreReplaced(t *testing.T) {
	t.Parallel()
	content := func(name string) (string, error) { return "new " + name + "\n", nil }
	got, err := replace("a\n<!-- figures:x -->\nold\n<!-- /figures -->\nb <!-- figures:y --><!-- /figures -->", content)
	if err != nil {
		t.Fatal(err)
	}
	want := "a\n<!-- figures:x -->\n\nnew x\n\n<!-- /figures -->\nb <!-- figures:y -->\n\nnew y\n\n<!-- /figures -->"
	if got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	for _, bad := range []string{"<!-- figures:x -->", "<!-- figures:x\n --><!-- /figures -->"} {
		if _, err := replace(bad, content); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}

func TestMissingResultIsAnError(t *testing.T) {
	t.Parallel()
	if _, err := block(t.TempDir(), "engine", ""); err == nil || !strings.Contains(err.Error(), "benchmarks/engine/results") {
		t.Errorf("got %v, want an error that names the folder", err)
	}
}
