package fuse

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/penstock/penstock/csi/internal/fs"
	"github.com/penstock/penstock/csi/internal/mounts"
)

// FSType is the file-system type that our mounts have in the mount table.
const FSType = "fuse." + subtype

const subtype = "penstock"

const (
	// maxRequest is the largest read that the kernel sends: 1 MiB, its own limit unless tuned.
	maxRequest = 1 << 20
	// maxBackground is how many read-ahead requests the kernel may have in flight per mount. 64 of 1 MiB is more than
	// any one window of the engine; go-fuse's default of 12 would starve parallel readers.
	maxBackground = 64
	// readAheadKiB is the read-ahead of the kernel: 4 MiB measured best (1 MiB: 27 % slower, 16 MiB: 22 % slower).
	readAheadKiB = 4 << 10
)

// Errors that callers can act on.
var (
	ErrNoDevice = errors.New("no /dev/fuse: load the kernel module (modprobe fuse), or pass the device into the container")
	ErrNoHelper = errors.New("not root and no fusermount3: install the package fuse3, or run as root")
	ErrBusy     = errors.New("already a mount point")
	ErrDetached = errors.New("detached, but programs still use it")
)

// Options configure a mount.
type Options struct {
	Source     string       // shown as the device in the mount table
	AllowOther bool         // other users may read as well (their permissions are checked by mode)
	Log        *slog.Logger // nil is silent
}

// Server is one mounted file system. It does not own the core.
type Server struct {
	dir       string
	device    string // "major:minor" of the file system
	readAhead int
	stop      func()        // ends the grace of interrupted requests
	done      chan struct{} // closed when the kernel has let go of the mount

	forgetting chan struct{} // closed when the forgetter has ended; nil: there is none
}

// Mount mounts core on dir, read-only, and serves it until it is unmounted by [Server.Unmount] or from outside.
func Mount(core *fs.FS, dir string, opts Options) (*Server, error) {
	return mountWith(core, dir, opts, false)
}

// mountWith is Mount; byEntry has the kernel forget as one before Linux 6.18 does.
func mountWith(core *fs.FS, dir string, opts Options, byEntry bool) (*Server, error) {
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	dir, err := checkDir(dir, opts.Log)
	if err != nil {
		return nil, err
	}
	if _, err := os.Lstat("/dev/fuse"); err != nil {
		return nil, ErrNoDevice
	}
	mo := &gofuse.MountOptions{
		Name:          subtype,
		FsName:        opts.Source,
		AllowOther:    opts.AllowOther,
		MaxWrite:      maxRequest,
		MaxBackground: maxBackground,
		DisableXAttrs: true,
		DisableSplice: true, // data comes from memory: a pipe on the way only costs, and is smaller than one reply
		Logger:        slog.NewLogLogger(opts.Log.Handler(), slog.LevelWarn),
		Options:       []string{"default_permissions"},
	}
	if root() {
		mo.DirectMountStrict = true
		mo.DirectMountFlags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_RDONLY
	} else {
		if err := mayMount(dir); err != nil {
			return nil, err
		}
		mo.Options = append(mo.Options, "ro", "nosuid", "nodev")
	}
	b := &bridge{
		RawFileSystem: gofuse.NewDefaultRawFileSystem(), core: core, log: opts.Log, dir: dir, stopping: make(chan struct{}),
		reports: map[slog.Level]*reports{slog.LevelInfo: {}, slog.LevelWarn: {}},
	}
	raw, err := gofuse.NewServer(b, dir, mo)
	if err != nil {
		return nil, explain(dir, err)
	}
	s := &Server{dir: dir, stop: sync.OnceFunc(func() { close(b.stopping) }), done: make(chan struct{})}
	go func() {
		defer close(s.done)
		raw.Serve()
	}()
	// WaitMount makes the kernel send one POLL, which go-fuse refuses, after which it sends no more. Without it, a Go
	// program that opens a file of its own mount deadlocks: its runtime registers the file with epoll in a system call
	// that keeps the scheduler waiting, and nobody is left to answer the POLL.
	if err := raw.WaitMount(); err != nil {
		return nil, errors.Join(fmt.Errorf("mount %q: %w", dir, err), s.Unmount(context.Background()))
	}
	if err := s.settle(opts.Log); err != nil {
		return nil, errors.Join(err, s.Unmount(context.Background()))
	}
	f := forgetter{core: core, kernel: raw, byEntry: byEntry}
	s.forgetting = make(chan struct{})
	go func() {
		defer close(s.forgetting)
		f.run(s.done)
	}()
	return s, nil
}

// checkDir returns dir as an absolute path without links. A mount that is already there is found in the table and not
// by looking: it may be dead or hang. A dead one of ours is taken away, so that a service that is started again recovers.
func checkDir(dir string, log *slog.Logger) (string, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("mount point %q: %w", dir, err)
	}
	// Links on the way first, without a look at the directory itself: that of a dead mount can't be had.
	if parent, err := filepath.EvalSymlinks(filepath.Dir(abs)); err == nil {
		abs = filepath.Join(parent, filepath.Base(abs))
	}
	if err := makeRoom(abs, log); err != nil {
		return "", err
	}
	resolved, err := filepath.EvalSymlinks(abs)
	if err != nil {
		return "", fmt.Errorf("mount point: %w", err)
	}
	if resolved != abs {
		if err := makeRoom(resolved, log); err != nil {
			return "", err
		}
	}
	info, err := os.Stat(resolved)
	if err != nil {
		return "", fmt.Errorf("mount point: %w", err)
	}
	if !info.IsDir() {
		return "", fmt.Errorf("mount point %q: not a directory", dir)
	}
	return resolved, nil
}

// obstacle is what a mount at the mount point means for a new one.
type obstacle uint8

const (
	inTheWay  obstacle = iota // refuse
	below                     // mount over it
	replaced                  // take it away first
	unchecked                 // ask whether it is dead; then replace it or refuse
)

// obstacleOf decides about a mount of a type. dead is nil when nobody has asked yet.
func obstacleOf(fsType string, dead *bool) obstacle {
	switch {
	case fsType == "autofs": // systemd's x-systemd.automount: the mount point waits for us
		return below
	case fsType != FSType:
		return inTheWay
	case dead == nil:
		return unchecked
	case *dead:
		return replaced
	default:
		return inTheWay
	}
}

// makeRoom takes dead mounts of ours off path, and fails if anything else is in the way.
func makeRoom(path string, log *slog.Logger) error {
	for range maxReplaced {
		table, err := mounts.Read()
		if err != nil {
			return err
		}
		m, mounted := table.At(path)
		if !mounted {
			return nil
		}
		what := obstacleOf(m.FSType, nil)
		if what == unchecked {
			dead := mounts.Dead(path, mounts.ProbeTime)
			what = obstacleOf(m.FSType, &dead)
		}
		switch what {
		case below:
			return nil
		case replaced:
			log.Warn("replacing a dead mount", "path", path, "source", m.Source)
			if err := detachDead(path); err != nil {
				return fmt.Errorf("mount point %q: a dead mount (%q) is there and can't be taken away: %w", path, m.Source, err)
			}
		default:
			return fmt.Errorf("mount point %q: %w (%s %q); unmount it first", path, ErrBusy, m.FSType, m.Source)
		}
	}
	return fmt.Errorf("mount point %q: %w: %d dead mounts were taken away and there are more", path, ErrBusy, maxReplaced)
}

// maxReplaced bounds the dead mounts on one mount point: each restart can leave one at most, and takes it away first.
const maxReplaced = 100

// helperTime bounds the helper that unmounts.
const helperTime = 5 * time.Second

// detachDead takes a mount without a server off path.
func detachDead(path string) error {
	if !root() {
		ctx, cancel := context.WithTimeout(context.Background(), helperTime)
		defer cancel()
		return detachByHelper(ctx, path)
	}
	err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if errors.Is(err, unix.EINVAL) { // somebody else was faster
		return nil
	}
	return err
}

// settle finds the new mount in the table and raises its read-ahead.
func (s *Server) settle(log *slog.Logger) error {
	table, err := mounts.Read()
	if err != nil {
		return err
	}
	m, ok := table.At(s.dir)
	if !ok || m.FSType != FSType {
		return fmt.Errorf("mount point %q: gone right after mounting", s.dir)
	}
	s.device = m.Device
	s.readAhead = s.setReadAhead(log)
	return nil
}

// setReadAhead returns the read-ahead that the mount has in the end, in KiB; 0 if nobody knows.
func (s *Server) setReadAhead(log *slog.Logger) int {
	knob := filepath.Join("/sys/class/bdi", s.device, "read_ahead_kb")
	if err := os.WriteFile(knob, []byte(strconv.Itoa(readAheadKiB)), 0); err != nil {
		log.Info("kernel read-ahead stays small, sequential reads cost more CPU", "err", err)
	}
	b, err := os.ReadFile(knob)
	if err != nil {
		return 0
	}
	kib, err := strconv.Atoi(string(bytes.TrimSpace(b)))
	if err != nil {
		return 0
	}
	return kib
}

// Dir returns where the file system is mounted, without links.
func (s *Server) Dir() string { return s.dir }

// Device returns "major:minor" of the file system, as the mount table shows it.
func (s *Server) Device() string { return s.device }

// ReadAhead returns the kernel's read-ahead for this mount in KiB, 0 if unknown.
func (s *Server) ReadAhead() int { return s.readAhead }

// Done is closed when the kernel has ended the connection (the file system was unmounted everywhere, or aborted) and all
// requests are answered. An aborted mount is still in the table: Unmount removes it.
func (s *Server) Done() <-chan struct{} { return s.done }

// Unmount unmounts and waits until the last request is answered or ctx ends. A busy mount, or one that is also bound
// elsewhere, is aborted; only root can, so without root files that are open keep it going, and the error is ErrDetached.
// It may be called again, and after somebody else has unmounted.
func (s *Server) Unmount(ctx context.Context) error {
	if err := s.detach(ctx); err != nil {
		return fmt.Errorf("unmount %q: %w", s.dir, err)
	}
	s.stop()
	select {
	case <-s.done:
	case <-ctx.Done():
		return fmt.Errorf("unmount %q: %w (%w)", s.dir, ErrDetached, ctx.Err())
	}
	if s.forgetting != nil {
		<-s.forgetting
	}
	return nil
}

// detach takes the mount off its point.
func (s *Server) detach(ctx context.Context) error {
	table, err := mounts.Read()
	if err != nil {
		return err
	}
	here := false
	for _, m := range table {
		here = here || m.Point == s.dir && (s.device == "" || m.Device == s.device)
	}
	if !here {
		return nil // somebody else did it; the server ends by itself
	}
	if top, _ := table.At(s.dir); s.device != "" && top.Device != s.device {
		return fmt.Errorf("%w of another file system on top (%s %q)", ErrBusy, top.FSType, top.Source)
	}
	if !root() {
		return detachByHelper(ctx, s.dir)
	}
	// MNT_FORCE aborts the connection: every waiting program gets an error and our server ends, whoever holds files open.
	// Without it the mount would be gone and the connection go on, for as long as a program has a file open through a copy
	// of the mount, be it one that was detached from its target before and is in no table any more.
	err = unix.Unmount(s.dir, unix.MNT_FORCE|unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if errors.Is(err, unix.EINVAL) { // no longer a mount point
		return nil
	}
	return err
}

func detachByHelper(ctx context.Context, dir string) error {
	bin, err := helper()
	if err != nil {
		return err
	}
	// The child never enters the mount: it is given the path, and works on its parent directory.
	if err := exec.CommandContext(ctx, bin, "-u", dir).Run(); err == nil {
		return nil
	}
	out, err := exec.CommandContext(ctx, bin, "-u", "-z", dir).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}

func root() bool { return os.Geteuid() == 0 }

// helper returns the setuid program that mounts for an ordinary user. /bin is where to look when there is no PATH.
func helper() (string, error) {
	for _, name := range []string{"fusermount3", "/bin/fusermount3", "fusermount", "/bin/fusermount"} {
		if bin, err := exec.LookPath(name); err == nil {
			return bin, nil
		}
	}
	return "", ErrNoHelper
}

// mayMount checks what the helper would refuse, to say it in one line: the helper writes to standard error on its own.
func mayMount(dir string) error {
	if _, err := helper(); err != nil {
		return err
	}
	if err := unix.Access("/dev/fuse", unix.R_OK|unix.W_OK); err != nil {
		return fmt.Errorf("/dev/fuse: %w: let all users open it (chmod 666 /dev/fuse, as udev does), or run as root", err)
	}
	if err := unix.Access(dir, unix.W_OK); err != nil {
		return fmt.Errorf("mount point %q: %w: only root mounts on a directory that it can't write", dir, err)
	}
	return nil
}

// explain says what a failed mount needs.
func explain(dir string, err error) error {
	switch {
	case root() && errors.Is(err, unix.EPERM):
		return fmt.Errorf("mount %q: %w: needs CAP_SYS_ADMIN (in a container: a privileged one)", dir, err)
	case errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENOENT) && strings.Contains(err.Error(), "fuse"):
		return fmt.Errorf("mount %q: %w: %w", dir, err, ErrNoDevice)
	case !root():
		return fmt.Errorf("mount %q: %s: its message is above", dir, strings.TrimSpace(err.Error()))
	default:
		return fmt.Errorf("mount %q: %w", dir, err)
	}
}
