package indexdir

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/penstock/penstock/soci/internal/stage"
)

// TestIndexPrune checks that the most recently used indexes stay, and files of
// other programs as well.
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
	put("old"+suffix, 3*time.Hour)
	put("new"+suffix, time.Hour)
	put("middle"+suffix, 2*time.Hour)
	put("README", 9*time.Hour)
	put(tempPrefix+"dead", 2*stage.KeepDead)
	put(tempPrefix+"alive", 0)
	if err := Open(dir, nil).prune(250); err != nil {
		t.Fatal(err)
	}
	var got []string
	names, _ := os.ReadDir(dir)
	for _, n := range names {
		got = append(got, n.Name())
	}
	want := []string{tempPrefix + "alive", "README", "middle" + suffix, "new" + suffix}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%v, want %v", got, want)
	}
}
