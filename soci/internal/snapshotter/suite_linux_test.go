package snapshotter_test

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/contrib/snapshotservice"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/proxy"
	"github.com/containerd/containerd/v2/core/snapshots/testsuite"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/penstock/penstock/soci/internal/snapshotter"
)

// serve serves a snapshotter at a socket and returns containerd's client for
// it.
func serve(t testing.TB, s *snapshotter.Snapshotter) (snapshots.Snapshotter, func() error) {
	t.Helper()
	dir, err := os.MkdirTemp("", "penstock-") //nolint:usetesting // short: the name of a socket has at most 108 bytes
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	snapshotsapi.RegisterSnapshotsServer(server, snapshotservice.FromSnapshotter(s))
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	conn, err := grpc.NewClient("unix://"+l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	return proxy.NewSnapshotter(snapshotsapi.NewSnapshotsClient(conn), "penstock"), func() error {
		err := conn.Close()
		s.Stop()
		server.GracefulStop()
		return errors.Join(err, <-served, s.Close(), os.RemoveAll(dir))
	}
}

// TestPrivSuite is containerd's own test of snapshotters, through a socket.
func TestPrivSuite(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: mounts overlayfs")
	}
	p := puller(t, nil)
	// With this name the suite skips renaming a lower directory, which
	// overlayfs does not support.
	testsuite.SnapshotterSuite(t, "overlayfs", func(_ context.Context, root string) (snapshots.Snapshotter, func() error, error) {
		s, err := snapshotter.New(snapshotter.Options{Root: root, Puller: p})
		if err != nil {
			return nil, nil, err
		}
		remote, stop := serve(t, s)
		return remote, stop, nil
	})
}
