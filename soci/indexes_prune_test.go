package soci

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/penstock/penstock/soci/internal/stage"
)

// TestIndexPrune: the indexes that were used last stay; what is not ours stays too.
func TestIndexPrune(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	now := time.Now()
	put := func(name string, age time.Duration) {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, make([]byte, 100), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(p, now.Add(-age), now.Add(-age)); err != nil {
			t.Fatal(err)
		}
	}
	put("old"+indexSuffix, 3*time.Hour)
	put("new"+indexSuffix, time.Hour)
	put("middle"+indexSuffix, 2*time.Hour)
	put("README", 9*time.Hour)
	put(tempIndex+"dead", 2*stage.KeepDead)
	put(tempIndex+"alive", 0)
	x := &indexes{dir: dir}
	if err := x.prune(250); err != nil {
		t.Fatal(err)
	}
	var got []string
	names, _ := os.ReadDir(dir)
	for _, n := range names {
		got = append(got, n.Name())
	}
	want := []string{tempIndex + "alive", "README", "middle" + indexSuffix, "new" + indexSuffix}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%v, want %v", got, want)
	}
}
