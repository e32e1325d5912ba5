package snapshotter_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"

	"github.com/penstock/penstock/internal/testorigin"
	"github.com/penstock/penstock/soci"
	"github.com/penstock/penstock/soci/internal/snapshotter"
)

// disk is a file system on a loop device.
type disk struct {
	t    *testing.T
	file string // image of the disk
	at   string // mount point
}

// newDisk makes a file system and mounts it, or skips the test.
func newDisk(t *testing.T, kind string, mkfs ...string) *disk {
	t.Helper()
	tool, err := exec.LookPath("mkfs." + kind)
	if err != nil {
		tool = "/sbin/mkfs." + kind
		if _, err := os.Stat(tool); err != nil {
			t.Skipf("needs tool mkfs.%s", kind)
		}
	}
	dir := t.TempDir()
	d := &disk{t: t, file: filepath.Join(dir, "disk"), at: filepath.Join(dir, "mnt")}
	if err := os.Mkdir(d.at, 0o700); err != nil {
		t.Fatal(err)
	}
	const size = 320 << 20 // mkfs.xfs needs 300 MiB; the file is sparse
	if err := os.WriteFile(d.file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(d.file, size); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(tool, append(mkfs, d.file)...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", tool, err, out)
	}
	d.mount()
	return d
}

func (d *disk) mount() {
	d.t.Helper()
	if out, err := exec.Command("mount", "-o", "loop", d.file, d.at).CombinedOutput(); err != nil {
		if strings.Contains(string(out), "unknown filesystem type") || strings.Contains(string(out), "loop device") {
			d.t.Skipf("needs loop devices, and the file system in the kernel: %s", out)
		}
		d.t.Fatalf("mount: %v: %s", err, out)
	}
	d.t.Cleanup(func() { _ = exec.Command("umount", "--lazy", d.at).Run() }) // usually it is not mounted any more
}

func (d *disk) unmount() {
	d.t.Helper()
	if out, err := exec.Command("umount", d.at).CombinedOutput(); err != nil {
		d.t.Fatalf("umount: %v: %s", err, out)
	}
}

// cut copies the bytes that have reached the disk, as a power cut would leave
// them.
func (d *disk) cut() {
	d.t.Helper()
	if out, err := exec.Command("cp", "--sparse=always", d.file, d.file+".cut").CombinedOutput(); err != nil {
		d.t.Fatalf("cp: %v: %s", err, out)
	}
}

// boot mounts the copy that cut has made in place of the disk.
func (d *disk) boot() {
	d.t.Helper()
	d.unmount()
	d.file += ".cut"
	d.mount()
}

// fileSystems runs a test on each common file system of nodes.
func fileSystems(t *testing.T, test func(t *testing.T, d *disk)) {
	t.Helper()
	for _, fs := range []struct {
		name string
		mkfs []string
	}{{"ext4", []string{"-q", "-F"}}, {"xfs", []string{"-q", "-f"}}, {"btrfs", []string{"-q", "-f"}}} {
		t.Run(fs.name, func(t *testing.T) { test(t, newDisk(t, fs.name, fs.mkfs...)) })
	}
}

// TestPrivPowerCut cuts the power right after the last answer, and checks that
// every committed snapshot exists and is whole.
func TestPrivPowerCut(t *testing.T) {
	if testing.Short() {
		t.Skip("short mode: makes file systems")
	}
	root(t)
	o := origin(t, testorigin.Options{})
	var images []image
	text := func(i int) string { return strings.Repeat(fmt.Sprintf("image %d\n", i), 5000) }
	for i := range 6 {
		images = append(images, push(t, o, fmt.Sprintf("app%d:1", i),
			gzipped(t, archive(t, tar.Header{Name: "etc/" + fmt.Sprint(i)}, text(i))),
			gzipped(t, archive(t, tar.Header{Name: "a"}, text(i), tar.Header{Name: "b"}, text(i))),
			gzipped(t, archive(t, tar.Header{Name: "c"}, text(i)))))
	}
	fileSystems(t, func(t *testing.T, d *disk) {
		dir := filepath.Join(d.at, "root")
		p := puller(t, nil)
		s, err := snapshotter.New(snapshotter.Options{Root: dir, Puller: p})
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range images {
			exist(t, s, m, 0)
		}
		d.cut()
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		d.boot()
		var log bytes.Buffer
		s, err = snapshotter.New(snapshotter.Options{Root: dir, Puller: p, Log: slog.New(slog.NewTextHandler(&log, nil))})
		if err != nil {
			t.Fatal(err)
		}
		for i, m := range images {
			for k := range m.chains {
				if info, err := s.Stat(t.Context(), m.chains[k]); err != nil || info.Kind != snapshots.KindCommitted {
					t.Fatalf("image %d, layer %d: %+v, %v", i, k, info, err)
				}
			}
			view(t, s, m.chains[2], func(at string) {
				for _, name := range []string{"a", "b", "c", "etc/" + fmt.Sprint(i)} {
					if got, err := os.ReadFile(filepath.Join(at, name)); err != nil || string(got) != text(i) {
						t.Errorf("image %d, %s: %d bytes, %v", i, name, len(got), err)
					}
				}
			})
		}
		if log.Len() > 0 {
			t.Errorf("something had to be restored: %s", log.String())
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		d.unmount()
	})
}

// TestPrivPowerCutAfterPull cuts the power right after a pull with Sync, into a
// new directory and into a mount point, and checks that the tree exists and is
// whole.
func TestPrivPowerCutAfterPull(t *testing.T) {
	if testing.Short() {
		t.Skip("short mode: makes file systems")
	}
	root(t)
	o := origin(t, testorigin.Options{})
	text := strings.Repeat("one image\n", 5000)
	m := push(t, o, "app:1", gzipped(t, archive(t, tar.Header{Name: "a"}, text)), gzipped(t, archive(t, tar.Header{Name: "b"}, text)))
	p := puller(t, func(opts *soci.Options) { opts.Sync = true })
	fileSystems(t, func(t *testing.T, d *disk) {
		if err := os.RemoveAll(filepath.Join(d.at, "lost+found")); err != nil {
			t.Fatal(err)
		}
		for _, target := range []string{d.at, filepath.Join(d.at, "tree")} {
			if target != d.at {
				for _, name := range []string{"a", "b"} {
					if err := os.Remove(filepath.Join(d.at, name)); err != nil {
						t.Fatal(err)
					}
				}
			}
			if _, err := p.Pull(t.Context(), m.ref, target); err != nil {
				t.Fatal(err)
			}
			d.cut()
			d.boot()
			for _, name := range []string{"a", "b"} {
				if got, err := os.ReadFile(filepath.Join(target, name)); err != nil || string(got) != text {
					t.Errorf("%s: %d bytes, %v", filepath.Join(target, name), len(got), err)
				}
			}
		}
		d.unmount()
	})
}

// TestPrivLostDirectories removes the directories of snapshots, and checks that
// the next start restores those that are among the ready layers. It removes the
// other snapshots with an error in the log, so that they are not mounted and
// the image can be pulled again.
func TestPrivLostDirectories(t *testing.T) {
	root(t)
	o := origin(t, testorigin.Options{})
	m := push(t, o, "app:1", three(t)...)
	dir := t.TempDir()
	p := puller(t, nil)
	var log bytes.Buffer
	restart := func(lose func(snapshot, ready string)) *snapshotter.Snapshotter {
		t.Helper()
		if lose != nil {
			for _, id := range names(t, dir, "snapshots") {
				record, err := os.ReadFile(filepath.Join(dir, "snapshots", id, "layer.json"))
				if errors.Is(err, os.ErrNotExist) {
					continue // of a view, which is removed a moment later
				}
				if err != nil {
					t.Fatal(err)
				}
				for _, chain := range m.chains {
					if strings.Contains(string(record), `"chain":"`+chain+`"`) {
						lose(filepath.Join(dir, "snapshots", id), filepath.Join(dir, "ready", strings.Replace(chain, ":", "-", 1)))
					}
				}
			}
		}
		log.Reset()
		s, err := snapshotter.New(snapshotter.Options{Root: dir, Puller: p, Log: slog.New(slog.NewTextHandler(&log, nil))})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	s := restart(nil)
	exist(t, s, m, 0)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = restart(func(snapshot, ready string) { // as observed on btrfs after a power cut
		if err := os.Rename(snapshot, ready); err != nil {
			t.Fatal(err)
		}
	})
	if n := strings.Count(log.String(), "restored the missing directory"); n != 3 {
		t.Errorf("%d snapshots healed: %s", n, log.String())
	}
	view(t, s, m.chains[2], func(at string) {
		if got, err := os.ReadFile(filepath.Join(at, "etc/c")); string(got) != "three" {
			t.Errorf("%q, %v", got, err)
		}
	})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = restart(func(snapshot, _ string) {
		if err := os.RemoveAll(snapshot); err != nil {
			t.Fatal(err)
		}
	})
	if n := strings.Count(log.String(), "level=ERROR"); n != 3 || !strings.Contains(log.String(), "image="+m.ref) {
		t.Errorf("%d snapshots removed: %s", n, log.String())
	}
	for _, chain := range m.chains {
		if _, err := s.Stat(t.Context(), chain); !errdefs.IsNotFound(err) {
			t.Errorf("%s: %v", chain, err)
		}
	}
	exist(t, s, m, 0)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}
