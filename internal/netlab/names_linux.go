package netlab

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	// netnsDir is the folder of the names of ip netns.
	netnsDir = "/run/netns"
	// filePrefix begins the name of every bound namespace; the process id follows.
	filePrefix = "penstock-"
)

// bind gives the namespace a name for ip netns.
func (n *node) bind(name string) error {
	if err := os.MkdirAll(netnsDir, 0o755); err != nil {
		return err
	}
	path := filepath.Join(netnsDir, name)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0o444)
	if err != nil {
		return err
	}
	f.Close()
	n.file = path
	return unix.Mount("/proc/self/fd/"+strconv.Itoa(int(n.ns)), path, "", unix.MS_BIND, "")
}

func unbind(path string) error {
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
		return err // EINVAL means that it is not mounted
	}
	return os.Remove(path)
}

// Sweep removes namespace names that earlier processes left behind when they
// were killed. [New] calls it for named labs.
func Sweep() {
	paths, err := filepath.Glob(filepath.Join(netnsDir, filePrefix+"*"))
	if err != nil {
		return
	}
	for _, path := range paths {
		if pid, ok := ownerOf(filepath.Base(path)); ok && !alive(pid) {
			// Another process may have removed it already, so the result does
			// not matter.
			_ = unbind(path)
		}
	}
}

// ownerOf returns the process id in the name of a bound namespace.
func ownerOf(name string) (int, bool) {
	rest, ok := strings.CutPrefix(name, filePrefix)
	if !ok {
		return 0, false
	}
	digits, _, ok := strings.Cut(rest, "-")
	if !ok {
		return 0, false
	}
	pid, err := strconv.Atoi(digits)
	return pid, err == nil && pid > 0
}

// alive reports whether a process exists. EPERM means that it does.
func alive(pid int) bool {
	return !errors.Is(unix.Kill(pid, 0), unix.ESRCH)
}
