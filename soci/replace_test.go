package soci

import (
	"os"
	"path/filepath"
	"testing"
)

// TestReplaceFileReplacesFilesOnly checks that a link or a directory in place
// of the file stays, because a link may lead to a file of another program.
func TestReplaceFileReplacesFilesOnly(t *testing.T) {
	dir := t.TempDir()
	target, link, file := filepath.Join(dir, "target"), filepath.Join(dir, "link"), filepath.Join(dir, "file")
	if err := os.WriteFile(target, []byte("kept"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(target, link); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{link, dir} {
		before, err := os.Lstat(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := replaceFile(name, []byte("new")); err == nil {
			t.Errorf("%s was replaced", name)
		}
		if after, err := os.Lstat(name); err != nil || !os.SameFile(before, after) {
			t.Errorf("%s is another: %v", name, err)
		}
	}
	for _, text := range []string{"first", "second"} {
		if err := replaceFile(file, []byte(text)); err != nil {
			t.Error(err)
		}
		if b, err := os.ReadFile(file); err != nil || string(b) != text {
			t.Errorf("%q %v", b, err)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(dir, ".penstock-*")); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}
