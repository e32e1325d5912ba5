package csi

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"time"

	spec "github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/penstock/penstock/csi/internal/fuse"
	"github.com/penstock/penstock/csi/internal/mounts"
)

// stopGrace is how long calls may go on after the driver was told to stop. A Ctrl-C has to be over within a second, and
// unmounting wants its share of it.
const stopGrace = 300 * time.Millisecond

// Driver is a CSI driver: identity and node service on a UNIX socket.
type Driver struct {
	opts    Options
	started atomic.Bool
	serving chan struct{} // closed when the socket accepts calls
}

// New returns a driver. It opens nothing before Run.
func New(opts Options) (*Driver, error) {
	if err := opts.Validate(); err != nil {
		return nil, fmt.Errorf("csi driver: %w", err)
	}
	return &Driver{opts: opts.withDefaults(), serving: make(chan struct{})}, nil
}

// Serving is closed when the driver accepts calls.
func (d *Driver) Serving() <-chan struct{} { return d.serving }

// Run serves until ctx ends, and then unmounts every volume and removes the socket. It returns nil when that went well.
// Mounts that an earlier run left behind are removed first. A driver runs once.
func (d *Driver) Run(ctx context.Context) (err error) {
	if d.started.Swap(true) {
		return errors.New("csi driver: already run: make a new one")
	}
	path, err := socketPath(d.opts.Endpoint)
	if err != nil {
		return err
	}
	opts, err := resolve(d.opts)
	if err != nil {
		return fmt.Errorf("csi driver: %w", err)
	}
	if err := clean(opts); err != nil {
		return fmt.Errorf("csi driver: %w", err)
	}
	node, err := newNode(opts, d.opts.KubeletDir)
	if err != nil {
		return fmt.Errorf("csi driver: %w", err)
	}
	defer func() { err = errors.Join(err, node.close()) }()
	ln, err := listen(ctx, path)
	if err != nil {
		return fmt.Errorf("csi driver: %w", err)
	}
	srv := grpc.NewServer(
		grpc.UnaryInterceptor(intercept(d.opts.Log)),
		grpc.WaitForHandlers(true), // a call that outlives the stop would mount behind our back
	)
	spec.RegisterIdentityServer(srv, &identity{name: d.opts.Name})
	spec.RegisterNodeServer(srv, node)
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(ln) }()
	d.opts.Log.Info("serving", "endpoint", d.opts.Endpoint, "driver", d.opts.Name, "node", d.opts.NodeID)
	close(d.serving)
	select {
	case err := <-failed:
		return fmt.Errorf("csi driver: %w", err)
	case <-ctx.Done():
	}
	stop(srv)
	if err := <-failed; err != nil && !errors.Is(err, grpc.ErrServerStopped) { // stopped before it had begun
		return fmt.Errorf("csi driver: %w", err)
	}
	return nil
}

// stop ends the server: gently for a moment, then by force.
func stop(srv *grpc.Server) {
	hurry := time.AfterFunc(stopGrace, srv.Stop)
	defer hurry.Stop()
	srv.GracefulStop()
}

// listen makes the socket. One that a dead driver left is replaced; one that answers is not.
func listen(ctx context.Context, path string) (net.Listener, error) {
	var d net.Dialer
	if c, err := d.DialContext(ctx, "unix", path); err == nil {
		_ = c.Close() // it was only to see whether anybody is there
		return nil, fmt.Errorf("socket %q: another driver answers there; stop it first", path)
	}
	if info, err := os.Lstat(path); err == nil {
		if info.Mode()&os.ModeSocket == 0 {
			return nil, fmt.Errorf("socket %q: a file of that name is in the way; remove it", path)
		}
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("stale socket: %w", err)
		}
	}
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	if err := os.Chmod(path, 0o660); err != nil { // requests carry secrets: kubelet's user and group alone
		return nil, errors.Join(fmt.Errorf("socket: %w", err), ln.Close())
	}
	return ln, nil
}

// resolve returns the options with directories as the mount table shows them: without links. The state directory is made.
func resolve(opts Options) (Options, error) {
	kubelet, err := filepath.EvalSymlinks(opts.KubeletDir)
	if err != nil {
		return opts, fmt.Errorf("kubelet directory: %w", err)
	}
	if err := os.MkdirAll(opts.StateDir, 0o700); err != nil {
		return opts, fmt.Errorf("state directory: %w", err)
	}
	state, err := filepath.EvalSymlinks(opts.StateDir)
	if err != nil {
		return opts, fmt.Errorf("state directory: %w", err)
	}
	opts.KubeletDir, opts.StateDir = kubelet, state
	return opts, nil
}

// clean detaches what an earlier run left mounted. This process has no mounts yet, so every mount of ours in its
// directories is stale; nothing is asked of the dead servers behind them.
func clean(opts Options) error {
	table, err := mounts.Read()
	if err != nil {
		return err
	}
	seen := map[string]bool{}
	for _, dir := range []string{opts.KubeletDir, opts.StateDir} {
		for _, m := range table.Below(dir, fuse.FSType) {
			if seen[m.Point] || !strings.HasPrefix(m.Source, sourcePrefix) {
				continue
			}
			seen[m.Point] = true
			opts.Log.Warn("detaching a mount of an earlier run", "path", m.Point, "source", m.Source)
			if err := mounts.DetachAll(m.Point); err != nil {
				return err
			}
		}
	}
	return nil
}

// intercept logs calls, never their contents (they hold secrets), and turns a panic into an error of that call alone.
func intercept(log *slog.Logger) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (resp any, err error) {
		start := time.Now()
		method := info.FullMethod[strings.LastIndexByte(info.FullMethod, '/')+1:]
		defer func() {
			if p := recover(); p != nil {
				log.Error("panic", "call", method, "panic", p, "stack", string(debug.Stack()))
				resp, err = nil, status.Errorf(codes.Internal, "%s: internal error, see the driver's log", method)
			}
			if err != nil {
				log.Warn("call failed", "call", method, "took", time.Since(start), "error", err)
			} else {
				log.Debug("call", "call", method, "took", time.Since(start))
			}
		}()
		return next(ctx, req)
	}
}
