package s3stream

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestDirNeverLeavesItsDirectory: a symbolic link that was there before does
// not lead a file out.
func TestDirNeverLeavesItsDirectory(t *testing.T) {
	dir, outside := t.TempDir(), t.TempDir()
	if err := os.Symlink(outside, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	m := &manifest{Objects: []Object{{Name: "link/x", Size: 1}}}
	s, err := (&Output{Dir: dir}).open(m)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	err = s.block(&m.Objects[0], 0, []byte("x"))
	if err == nil {
		err = s.end(&m.Objects[0])
	}
	if err == nil {
		t.Error("no error")
	}
	for _, d := range []string{outside, dir} {
		files, _ := os.ReadDir(d)
		for _, f := range files {
			if f.Name() != "link" {
				t.Errorf("%s has %s", d, f.Name())
			}
		}
	}
}

// TestDirReplacesWhole: an older file stays until the new one is complete.
func TestDirReplacesWhole(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "x")
	if err := os.WriteFile(name, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	m := &manifest{Objects: []Object{{Name: "x", Size: 3}}}
	o := &m.Objects[0]
	for _, finish := range []bool{false, true} {
		s, err := (&Output{Dir: dir}).open(m)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.block(o, 0, []byte("new")); err != nil {
			t.Fatal(err)
		}
		want := "old"
		if finish {
			want = "new"
			if err := s.end(o); err != nil {
				t.Fatal(err)
			}
		}
		s.close()
		if got, err := os.ReadFile(name); err != nil || string(got) != want {
			t.Errorf("finished: %v, file has %q, %v", finish, got, err)
		}
		if files, _ := os.ReadDir(dir); len(files) != 1 {
			t.Errorf("finished: %v, %d files", finish, len(files))
		}
	}
}

func TestDirThatCannotBe(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	m := &manifest{Objects: []Object{{Name: "a"}, {Name: "b"}}}
	if _, err := (&Output{Dir: filepath.Join(file, "sub")}).open(m); err == nil {
		t.Error("a directory below a file was opened")
	}
	if _, err := (&Output{File: filepath.Join(t.TempDir(), "x")}).open(m); err == nil {
		t.Error("two objects went into one file")
	}
}

// A file comes into place by rename: what is no regular file is refused, for
// root would otherwise replace a device, or a link, for good.
func TestFileThatIsNone(t *testing.T) {
	dir := t.TempDir()
	link := filepath.Join(dir, "link")
	if err := os.Symlink("elsewhere", link); err != nil {
		t.Fatal(err)
	}
	m := &manifest{Objects: []Object{{Bucket: "b", Key: "k", Name: "k", Size: 1}}}
	for _, file := range []string{os.DevNull, link, dir} {
		before, err := os.Lstat(file)
		if err != nil {
			t.Fatal(err)
		}
		if s, err := (&Output{File: file}).open(m); err == nil {
			s.close()
			t.Errorf("%s was taken as an output file", file)
		}
		after, err := os.Lstat(file)
		if err != nil || after.Mode() != before.Mode() {
			t.Errorf("%s has changed: %v, %v", file, after, err)
		}
	}
}

// TestSweep: files that killed processes left go when the next run opens the directory; one that a living process
// writes stays, and so does anything else.
func TestSweep(t *testing.T) {
	dir := t.TempDir()
	m := &manifest{Objects: []Object{{Name: "x", Size: 1}}}
	living, err := (&Output{Dir: dir}).open(m)
	if err != nil {
		t.Fatal(err)
	}
	defer living.close()
	writes, err := filepath.Glob(filepath.Join(dir, tempPrefix+"*"))
	if err != nil || len(writes) != 1 {
		t.Fatal(writes, err)
	}
	stays := []string{filepath.Base(writes[0]), ".penstock-notes", "x.part"}
	for _, name := range []string{".penstock-AAAAAAAAAA.part", ".penstock-BBBBBBBBBB.part", ".penstock-notes", "x.part"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("left by a killed process"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	next, err := (&Output{Dir: dir, Sync: true}).open(m)
	if err != nil {
		t.Fatal(err)
	}
	err = next.block(&m.Objects[0], 0, []byte("x"))
	if err == nil {
		err = next.end(&m.Objects[0])
	}
	next.close()
	if err != nil {
		t.Fatal(err)
	}
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range files {
		names = append(names, f.Name())
	}
	stays = append(stays, "x")
	slices.Sort(stays)
	slices.Sort(names)
	if !slices.Equal(names, stays) {
		t.Errorf("there is %q, want %q", names, stays)
	}
}

// TestDirKeepsWhatIsNoFile: a name that is taken by something else than a regular file is refused, not replaced.
func TestDirKeepsWhatIsNoFile(t *testing.T) {
	dir := t.TempDir()
	if err := os.Symlink("elsewhere", filepath.Join(dir, "x")); err != nil {
		t.Fatal(err)
	}
	m := &manifest{Objects: []Object{{Name: "x"}}}
	s, err := (&Output{Dir: dir}).open(m)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	if err := s.end(&m.Objects[0]); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Error(err)
	}
	if to, err := os.Readlink(filepath.Join(dir, "x")); err != nil || to != "elsewhere" {
		t.Error(to, err)
	}
	if files, _ := os.ReadDir(dir); len(files) != 1 {
		t.Errorf("%d files", len(files))
	}
}
