package untar

import (
	"crypto/sha256"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// describeTree describes every file of a tree by all properties that an archive
// stores: type, mode, owner, time, size or device, content, target, attributes,
// the number of links, and which names are links of each other. For the
// directories in implicit, which no entry describes, it describes only the
// presence.
func describeTree(t *testing.T, root string, implicit map[string]bool) map[string]string {
	t.Helper()
	out := make(map[string]string)
	first := make(map[uint64]string) // the first name of an inode
	err := filepath.WalkDir(root, func(p string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel := strings.TrimPrefix(strings.TrimPrefix(p, root), "/")
		if rel == "" {
			rel = "."
		}
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return err
		}
		kind := st.Mode & unix.S_IFMT
		if kind == unix.S_IFDIR && implicit[rel] {
			out[rel] = "directory"
			return nil
		}
		d := fmt.Sprintf("%o %d:%d %d.%09d", st.Mode, st.Uid, st.Gid, st.Mtim.Sec, st.Mtim.Nsec)
		switch kind {
		case unix.S_IFREG:
			d += fmt.Sprintf(" %d bytes %s", st.Size, sum(t, p))
		case unix.S_IFLNK:
			target, err := os.Readlink(p)
			if err != nil {
				return err
			}
			d += " -> " + target
		case unix.S_IFCHR, unix.S_IFBLK:
			d += fmt.Sprintf(" device %d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
		}
		if kind != unix.S_IFDIR && st.Nlink > 1 {
			if first[st.Ino] == "" {
				first[st.Ino] = rel
			}
			d += fmt.Sprintf(" %d links of %s", st.Nlink, first[st.Ino])
		}
		out[rel] = d + attributes(t, p)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func sum(t *testing.T, path string) string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", h.Sum(nil)[:8])
}

// attributes lists the attributes of a file, without the attributes of
// overlayfs.
func attributes(t *testing.T, path string) string {
	t.Helper()
	list := make([]byte, 4096)
	n, err := unix.Llistxattr(path, list)
	if err != nil {
		return ""
	}
	var out []string
	for name := range strings.SplitSeq(strings.TrimRight(string(list[:n]), "\x00"), "\x00") {
		if name == "" || steersOverlay(name) || name == "security.selinux" {
			continue
		}
		value := make([]byte, 64<<10)
		n, err := unix.Lgetxattr(path, name, value)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, fmt.Sprintf(" %s=%x", name, value[:n]))
	}
	slices.Sort(out)
	return strings.Join(out, "")
}

// equalTrees compares two trees file by file and returns the number of files.
func equalTrees(t *testing.T, got, want string, implicit map[string]bool) int {
	t.Helper()
	a, b := describeTree(t, got, implicit), describeTree(t, want, implicit)
	shown := 0
	for _, name := range slices.Sorted(maps.Keys(union(a, b))) {
		if a[name] == b[name] || name == "." && (a[name] == "" || implicit == nil) {
			continue
		}
		t.Errorf("%s\ngot  %s\nwant %s", name, a[name], b[name])
		if shown++; shown == 20 {
			t.Fatal("and more")
		}
	}
	return len(b)
}

func union(a, b map[string]string) map[string]string {
	u := maps.Clone(a)
	maps.Copy(u, b)
	return u
}

// implicit returns the directories of a layer that no entry describes.
func implicit(l *Layer) map[string]bool {
	out := make(map[string]bool)
	for i := range l.dirs.nodes {
		if path := l.dirs.path(dirID(i)); !l.dirs.isDead(dirID(i)) && l.isImplicit(path) {
			out[path] = true
		}
	}
	return out
}
