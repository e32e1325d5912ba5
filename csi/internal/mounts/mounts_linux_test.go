package mounts

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

const sample = `22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda1 rw
30 22 0:26 / /proc rw - proc proc rw
41 22 0:40 / /var/lib/kubelet/pods/a\040b/mount ro,nosuid master:3 propagate_from:2 - fuse.penstock penstock-csi:bucket ro,user_id=0
42 22 0:40 / /var/lib/kubelet/pods/c/mount ro - fuse.penstock penstock-csi:bucket ro,user_id=0
43 42 0:50 /sub /var/lib/kubelet/pods/c/mount rw - tmpfs tmp\011fs rw
44 22 0:51 / /var/lib/kubelet2/x rw - fuse.penstock other rw
`

func TestParse(t *testing.T) {
	table, err := Parse(strings.NewReader(sample))
	if err != nil {
		t.Fatal(err)
	}
	want := Mount{
		ID: 41, Parent: 22, Device: "0:40", Root: "/", Point: "/var/lib/kubelet/pods/a b/mount", Options: "ro,nosuid",
		FSType: "fuse.penstock", Source: "penstock-csi:bucket", Super: "ro,user_id=0",
	}
	if table[2] != want {
		t.Errorf("got  %+v\nwant %+v", table[2], want)
	}
	if m, ok := table.At("/var/lib/kubelet/pods/c/mount"); !ok || m.Source != "tmp\tfs" || m.Root != "/sub" {
		t.Errorf("the topmost mount must be found, got %+v, %v", m, ok)
	}
	if _, ok := table.At("/var"); ok {
		t.Error("/var is no mount point")
	}
	below := table.Below("/var/lib/kubelet", "fuse.penstock")
	if len(below) != 2 || below[0].ID != 42 || below[1].ID != 41 {
		t.Errorf("Below = %+v", below)
	}
	for _, bad := range []string{"x", "a b c d e f - g h", "1 b c d e f - g h", "1 2 c d - e f", "1 2 3 4 5 6 - g"} {
		if _, err := Parse(strings.NewReader(bad)); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

func TestUnescape(t *testing.T) {
	for in, want := range map[string]string{
		`plain`: "plain", `a\040b`: "a b", `\134`: `\`, `\\`: `\\`, `\04`: `\04`, `\999`: `\999`, `\777`: `\777`,
		`end\040`: "end ", `\012\011\043`: "\n\t#",
	} {
		if got := unescape(in); got != want {
			t.Errorf("unescape(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestReadOwnTable(t *testing.T) {
	table, err := Read()
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := table.At("/proc"); !ok {
		t.Errorf("/proc is not in a table of %d mounts", len(table))
	}
}

func FuzzParse(f *testing.F) {
	f.Add(sample)
	f.Add(`1 2 0:1 / /\ rw - a b c`)
	f.Fuzz(func(t *testing.T, s string) {
		table, err := Parse(strings.NewReader(s))
		if err != nil {
			return
		}
		for _, m := range table {
			if at, ok := table.At(m.Point); !ok || at.Point != m.Point {
				t.Fatalf("%+v is not found at its own point", m)
			}
		}
	})
}

// anyMount lets every mount be detached.
func anyMount(Mount) error { return nil }

func TestTargetChecks(t *testing.T) {
	base := t.TempDir()
	outside := t.TempDir()
	if err := os.Mkdir(filepath.Join(base, "pod"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, filepath.Join(base, "link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, filepath.Join(base, "pod", "link")); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{
		"relative", base, "/elsewhere/x", base + "/../x", base + "/pod//x", base + "/link/x", base + "/pod/link", base + "x/y",
	} {
		target, err := OpenTarget(base, bad)
		if err == nil {
			target.Close()
			t.Errorf("target %q was accepted", bad)
		}
	}
	for _, link := range []string{base + "/link/x", base + "/pod/link"} {
		if _, err := OpenTarget(base, link); !errors.Is(err, ErrOutside) {
			t.Errorf("%q: got %v, want ErrOutside", link, err)
		}
	}
	for range 2 { // the second time it exists
		target, err := OpenTarget(base, base+"/pod/mount")
		if err != nil {
			t.Fatal(err)
		}
		target.Close()
	}
	for range 2 { // the second time it is gone
		if err := Remove(base, base+"/pod/mount", anyMount); err != nil {
			t.Fatal(err)
		}
	}
	if err := Remove(base, base+"/missing/pod/mount", anyMount); err != nil {
		t.Errorf("a target whose parent is gone: %v", err)
	}
	if left, _ := os.ReadDir(outside); len(left) != 0 {
		t.Errorf("something was made outside: %v", left)
	}
}

func TestPrivBindAndRemove(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: mounts")
	}
	base, source := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(source, "file"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(base, "a b") // a name that mountinfo escapes
	for range 2 {                      // stacked on purpose
		target, err := OpenTarget(base, path)
		if err != nil {
			t.Fatal(err)
		}
		err = target.Bind(source)
		target.Close()
		if errors.Is(err, unix.EPERM) {
			t.Skip("needs CAP_SYS_ADMIN: mounts")
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(filepath.Join(path, "file")); err != nil {
		t.Error(err)
	}
	if err := Remove(base, path, anyMount); err != nil {
		t.Fatal(err)
	}
	table, err := Read()
	if err != nil {
		t.Fatal(err)
	}
	if m, ok := table.At(path); ok {
		t.Errorf("left over: %+v", m)
	}
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the directory is still there: %v", err)
	}
}

// TestPrivRemoveAsksFirst: a mount that may not be detached stays, with the directory and what is mounted below it; and
// files in the directory itself are not removed.
func TestPrivRemoveAsksFirst(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: mounts")
	}
	base, source := t.TempDir(), t.TempDir()
	path := filepath.Join(base, "target")
	target, err := OpenTarget(base, path)
	if err != nil {
		t.Fatal(err)
	}
	defer target.Close()
	if err := target.Bind(source); errors.Is(err, unix.EPERM) {
		t.Skip("needs CAP_SYS_ADMIN: mounts")
	} else if err != nil {
		t.Fatal(err)
	}
	refusal := errors.New("not ours")
	if err := Remove(base, path, func(Mount) error { return refusal }); !errors.Is(err, refusal) {
		t.Errorf("got %v, want the refusal", err)
	}
	table, err := Read()
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := table.At(path); !ok {
		t.Error("a mount was detached against the refusal")
	}
	if err := DetachAll(path, anyMount); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(path, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Remove(base, path, anyMount); err == nil || !strings.Contains(err.Error(), "files are in the directory itself") {
		t.Errorf("a directory with files: %v", err)
	}
	if _, err := os.Stat(filepath.Join(path, "file")); err != nil {
		t.Errorf("the file was removed: %v", err)
	}
}

func Example() {
	table, err := Parse(strings.NewReader(
		`41 22 0:40 / /mnt/my\040bucket ro - fuse.penstock penstock-csi:bucket ro` + "\n"))
	if err != nil {
		fmt.Println(err)
		return
	}
	m, ok := table.At("/mnt/my bucket")
	fmt.Println(m.FSType, m.Source, ok)
	// Output: fuse.penstock penstock-csi:bucket true
}
