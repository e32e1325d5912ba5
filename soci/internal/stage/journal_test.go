package stage

import (
	"strings"
	"testing"
)

func TestJournal(t *testing.T) {
	const head = `{"version":2,"boot":"a"}` + "\n"
	line := func(boot, dir, more string) string {
		return `{"boot":"` + boot + `","layer":{"digest":"d"},"dir":"` + dir + `"` + more + "}\n"
	}
	for name, tt := range map[string]struct {
		text string
		boot string
		want int
	}{
		"same system":            {head + line("a", "x", "") + line("a", "y", ""), "a", 2},
		"torn line":              {head + line("a", "x", "") + `{"boot":"a","layer":{"dig`, "a", 1},
		"after a power cut":      {head + line("a", "x", "") + line("a", "y", `,"synced":true`), "b", 1},
		"system unknown":         {head + line("", "x", ""), "", 0},
		"merged":                 {head + line("a", "x", "") + `{"merging":true}` + "\n", "a", 0},
		"another version":        {`{"version":1,"boot":"a"}` + "\n" + line("a", "x", ""), "a", 0},
		"names that lead astray": {head + line("a", "../x", "") + line("a", "..", "") + line("a", "", ""), "a", 0},
		"nothing":                {"", "a", 0},
	} {
		got, moves, err := parseJournal(strings.NewReader(tt.text), tt.boot)
		if err != nil || len(got) != tt.want || len(moves) > 0 {
			t.Errorf("%s: %v %v %v", name, got, moves, err)
		}
	}
	_, moves, err := parseJournal(strings.NewReader(head+`{"moving":[{"name":"YQ==","ino":7}]}`+"\n"), "b")
	if err != nil || len(moves) != 1 || string(moves[0].Name) != "a" || moves[0].Ino != 7 {
		t.Error(moves, err)
	}
}

func FuzzJournal(f *testing.F) {
	f.Add(`{"version":2,"boot":"a"}` + "\n" + `{"boot":"a","layer":{"digest":"d"},"dir":"x"}` + "\n")
	f.Add("{}")
	f.Fuzz(func(t *testing.T, text string) {
		layers, _, err := parseJournal(strings.NewReader(text), "a")
		if err != nil {
			t.Fatal(err)
		}
		for dir := range layers {
			if strings.Contains(dir, "/") || dir == "" || dir == "." || dir == ".." {
				t.Fatalf("directory %q", dir)
			}
		}
	})
}
