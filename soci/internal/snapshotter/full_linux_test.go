package snapshotter_test

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/penstock/penstock/soci/internal/snapshotter"
)

// smallDisk mounts a file system in memory with limited bytes and inodes.
func smallDisk(t *testing.T, options string) string {
	t.Helper()
	root(t)
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, options); err != nil {
		t.Skip("needs to mount a tmpfs: ", err)
	}
	t.Cleanup(func() { // runs last, after the snapshotter is closed
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// TestPrivFull checks that a pull on a full disk, by bytes or by inodes,
// reports that and leaves no files, not even its ready layers. Another pull on
// the same disk continues, and the same pull succeeds once there is room.
func TestPrivFull(t *testing.T) {
	const mib = 1 << 20 // bytes
	for _, tt := range []struct {
		name, disk string
		fill       func(dir string) error // uses up the room that the image needs
	}{
		{"bytes", "size=40m", func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "fill"), make([]byte, 36*mib), 0o600)
		}},
		{"inodes", "size=256m,nr_inodes=3000", func(dir string) error {
			err := os.Mkdir(filepath.Join(dir, "fill"), 0o700)
			for i := 0; err == nil && i < 2500; i++ {
				err = os.WriteFile(filepath.Join(dir, "fill", strconv.Itoa(i)), nil, 0o600)
			}
			return err
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := smallDisk(t, tt.disk)
			var slow image
			o := hold(t, func() string {
				if slow.layers == nil {
					return ""
				}
				return "slow@" + slow.layers[0]
			})
			big := push(t, o.Origin, "big:1",
				gzipped(t, archive(t, tar.Header{Name: "ready"}, "small")),
				gzipped(t, goTree(t, "net", "runtime")))
			other := push(t, o.Origin, "slow:1", gzipped(t, archive(t, tar.Header{Name: "etc/a"}, "other")))
			slow = other
			local := open(t, dir, func(o *snapshotter.Options) { o.Keep = time.Hour })
			s, stop := serve(t, local)
			defer func() {
				if err := stop(); err != nil {
					t.Error(err)
				}
			}()
			asked := make(chan error)
			go func() {
				_, err := other.prepare(t.Context(), s, 0)
				asked <- err
			}()
			<-o.asked
			if err := tt.fill(dir); err != nil {
				t.Fatal(err)
			}
			_, err := big.prepare(t.Context(), s, 0)
			if !errdefs.IsResourceExhausted(err) || !strings.Contains(err.Error(), unix.ENOSPC.Error()) || !strings.Contains(err.Error(), big.layers[1]) {
				t.Errorf("%v; want that there is no room for %s", err, big.layers[1])
			}
			until(t, "nothing of it is left", func() bool { return len(names(t, dir, "work")) == 1 && len(names(t, dir, "ready")) == 0 })
			o.let()
			if err := <-asked; !errdefs.IsAlreadyExists(err) {
				t.Errorf("the other pull: %v", err)
			}
			view(t, s, other.chains[0], func(at string) {
				if got, err := os.ReadFile(filepath.Join(at, "etc/a")); !bytes.Equal(got, []byte("other")) {
					t.Errorf("etc/a: %q, %v", got, err)
				}
			})
			if err := os.RemoveAll(filepath.Join(dir, "fill")); err != nil {
				t.Fatal(err)
			}
			exist(t, s, big, 0)
			wantNames(t, dir, "work")
			wantNames(t, dir, "parts")
		})
	}
}
