package csi

import (
	"context"
	"crypto/rand"
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
	"golang.org/x/sys/unix"
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

// Format implements [fmt.Formatter]: a Driver shows its name and endpoint, and not the options, which hold secrets.
func (d *Driver) Format(f fmt.State, _ rune) {
	_, _ = fmt.Fprintf(f, "driver %s at %s", d.opts.Name, d.opts.Endpoint)
}

// Serving is closed when the driver accepts calls.
func (d *Driver) Serving() <-chan struct{} { return d.serving }

// Run serves until ctx ends, and then unmounts every volume and removes the socket. It returns nil when that went well.
// Dead mounts that an earlier run left behind are removed first. While another driver has the state directory or answers at
// the socket, Run fails and touches nothing. A driver runs once.
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
	// The order matters: nothing on the node is touched before the lock and the socket show that no other driver is here.
	unlock, err := lockState(opts.StateDir)
	if err != nil {
		return fmt.Errorf("csi driver: %w", err)
	}
	defer unlock()
	ln, err := listen(ctx, path, opts.StateDir)
	if err != nil {
		return fmt.Errorf("csi driver: %w", err)
	}
	me := owner{driver: opts.Name, instance: rand.Text()}
	if err := clean(opts, me); err != nil {
		return fmt.Errorf("csi driver: %w", errors.Join(err, ln.Close()))
	}
	node, err := newNode(opts, me, d.opts.KubeletDir)
	if err != nil {
		return fmt.Errorf("csi driver: %w", errors.Join(err, ln.Close()))
	}
	defer func() { err = errors.Join(err, node.close()) }()
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

// lockState takes the state directory for this process, until unlock or the end of the process, however it ends. The
// lock is on the directory itself: no file is left behind, and a path that is reached in two ways is one lock.
func lockState(dir string) (unlock func(), err error) {
	f, locked, err := lockDir(dir)
	if err != nil {
		return nil, fmt.Errorf("state directory: %w", err)
	}
	if !locked {
		return nil, fmt.Errorf("state directory %q: another driver runs with it; stop it first, or give this one a driver name of its own", dir)
	}
	return func() { _ = f.Close() }, nil // nothing was written through it
}

// lockDir tries to lock a directory; false means that another process has it.
func lockDir(dir string) (*os.File, bool, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, false, err
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) //nolint:gosec // a descriptor
	if err != nil {
		_ = f.Close() // nothing was written through it
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, false, nil
		}
		return nil, false, fmt.Errorf("lock %q: %w", dir, err)
	}
	return f, true, nil
}

// socketWait bounds waiting for another process that makes a socket in the same directory. It takes microseconds.
const socketWait = time.Second

// lockSockets keeps others from replacing a stale socket in dir at the same time, so that of two drivers that start
// together one sees the other's socket.
func lockSockets(ctx context.Context, dir string) (unlock func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, socketWait)
	defer cancel()
	for {
		f, locked, err := lockDir(dir)
		if err != nil {
			return nil, err
		}
		if locked {
			return func() { _ = f.Close() }, nil // nothing was written through it
		}
		select {
		case <-time.After(socketWait / 50):
		case <-ctx.Done():
			return nil, fmt.Errorf("directory %q: another process holds the lock for making a socket there; end it first", dir)
		}
	}
}

// listen makes the socket. One that a dead driver left is replaced; one that answers is not. The lock of the state
// directory is held already.
func listen(ctx context.Context, path, state string) (net.Listener, error) {
	if dir := filepath.Dir(path); !sameFile(dir, state) {
		unlock, err := lockSockets(ctx, dir)
		if err != nil {
			return nil, fmt.Errorf("socket: %w", err)
		}
		defer unlock()
	}
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

func sameFile(a, b string) bool {
	x, errX := os.Stat(a)
	y, errY := os.Stat(b)
	return errX == nil && errY == nil && os.SameFile(x, y)
}

// clean detaches dead mounts that earlier runs of this driver left in its directories, and removes their directories of
// state. What still has a server stays, whoever made it.
func clean(opts Options, me owner) error {
	table, err := mounts.Read()
	if err != nil {
		return err
	}
	detach := me.detacher(atStart, opts.Log)
	seen := map[string]bool{}
	for _, dir := range []string{opts.KubeletDir, opts.StateDir} {
		for _, m := range table.Below(dir, fuse.FSType) {
			if seen[m.Point] {
				continue
			}
			seen[m.Point] = true
			var kept *keptError
			switch err := mounts.DetachAll(m.Point, detach); {
			case errors.As(err, &kept) && me.claim(kept.mount, fuse.FSType) == foreign:
			case errors.As(err, &kept):
				opts.Log.Warn("a mount that is not of this run still has a server: left alone", "path", m.Point, "source", kept.mount.Source)
			case err != nil:
				return err
			}
		}
	}
	return sweep(opts)
}

// sweep removes the directories that earlier runs left in the state directory: all that are no mount points now. Removing
// an empty directory asks nothing of a file system that is mounted on it.
func sweep(opts Options) error {
	left, err := os.ReadDir(opts.StateDir)
	if err != nil {
		return fmt.Errorf("state directory: %w", err)
	}
	table, err := mounts.Read()
	if err != nil {
		return err
	}
	for _, e := range left {
		path := filepath.Join(opts.StateDir, e.Name())
		if _, mounted := table.At(path); mounted || !e.IsDir() {
			continue
		}
		if err := unix.Rmdir(path); err != nil {
			opts.Log.Warn("a directory in the state directory is not ours or not empty: left alone", "path", path, "err", err)
		}
	}
	return nil
}

// keptError is a mount that this driver does not detach.
type keptError struct {
	mount mounts.Mount
	whose claim
}

// Error says what is mounted and why it stays.
func (e *keptError) Error() string {
	var why string
	switch e.whose {
	case elsewhere:
		why = "a mount of another run of this driver, which still has a server"
	case unnamed:
		why = "a mount that no driver made, and that still has a server"
	case foreign, ours:
		why = "not a mount of this driver"
	}
	return fmt.Sprintf("%s %q is mounted there: %s", e.mount.FSType, e.mount.Source, why)
}

// detacher returns what is asked before a mount is detached on an occasion: nil says yes, a [*keptError] no.
func (o owner) detacher(when occasion, log *slog.Logger) func(mounts.Mount) error {
	return func(m mounts.Mount) error {
		whose := o.claim(m, fuse.FSType)
		dead := (whose == elsewhere || whose == unnamed) && mounts.Dead(m.Point, mounts.ProbeTime)
		if !mayDetach(when, whose, dead) {
			return &keptError{m, whose}
		}
		if whose != ours {
			log.Warn("detaching a mount of an earlier run", "path", m.Point, "source", m.Source, "dead", dead)
		}
		return nil
	}
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
				log.Warn("call failed", "call", method, "took", time.Since(start), "err", err)
			} else {
				log.Debug("call", "call", method, "took", time.Since(start))
			}
		}()
		return next(ctx, req)
	}
}
