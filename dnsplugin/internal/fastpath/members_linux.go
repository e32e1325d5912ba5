//go:build amd64 || arm64

package fastpath

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// groupKey names a group of the kernel: two addresses of a Corefile may lead
// to one (0.0.0.0 and :: are the same to Go), and one address to a group that
// sockets of other processes are in.
type groupKey struct {
	tcp   bool
	v6    bool
	local string // address and port as /proc/net prints them
}

// keyOf reads the address that fd is bound to.
func keyOf(fd int, tcp bool) (groupKey, unix.Sockaddr, error) {
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return groupKey{}, nil, os.NewSyscallError("getsockname", err)
	}
	key := groupKey{tcp: tcp}
	switch a := sa.(type) {
	case *unix.SockaddrInet4:
		key.local = procAddr(a.Addr[:], a.Port)
	case *unix.SockaddrInet6:
		key.v6, key.local = true, procAddr(a.Addr[:], a.Port)
	default:
		return groupKey{}, nil, fmt.Errorf("an address of the kind %T", sa)
	}
	return key, sa, nil
}

// procAddr prints an address as /proc/net does: words of the machine's order in hex.
func procAddr(addr []byte, port int) string {
	var b strings.Builder
	for ; len(addr) > 0; addr = addr[4:] {
		fmt.Fprintf(&b, "%08X", binary.NativeEndian.Uint32(addr))
	}
	fmt.Fprintf(&b, ":%04X", port)
	return b.String()
}

// file is where the kernel lists the sockets of the group's kind.
func (k groupKey) file() string {
	name := "/proc/net/udp"
	if k.tcp {
		name = "/proc/net/tcp"
	}
	if k.v6 {
		name += "6"
	}
	return name
}

// members returns the inodes of the group's sockets, sorted.
func (k groupKey) members() ([]uint64, error) {
	f, err := os.Open(k.file())
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return k.scan(f)
}

// surely is members, read until two lists agree: the kernel makes a list piece
// by piece, and while sockets come and go nearby it may leave one out or have it twice.
func (k groupKey) surely() ([]uint64, error) {
	const most = 8
	last, err := k.members()
	for range most {
		if err != nil {
			return nil, err
		}
		var next []uint64
		if next, err = k.members(); err == nil && slices.Equal(last, next) {
			return next, nil
		}
		last = next
	}
	return last, err
}

// scan reads what members needs from a list of sockets.
func (k groupKey) scan(r io.Reader) ([]uint64, error) {
	const listening, unconnected = "0A", "07"
	var all []uint64
	lines := bufio.NewScanner(r)
	lines.Scan() // the heading
	local := []byte(" " + k.local + " ")
	for lines.Scan() {
		// A node may have tens of thousands that are none of the group.
		if !k.tcp && !bytes.Contains(lines.Bytes(), local) {
			continue
		}
		f := strings.Fields(lines.Text())
		if len(f) < 10 {
			return nil, fmt.Errorf("%s: a line of %d fields", k.file(), len(f))
		}
		state := f[3]
		if k.tcp && state != listening {
			break // the listening ones stand first, and there may be 100,000 others
		}
		if f[1] != k.local || !k.tcp && state != unconnected {
			continue
		}
		inode, err := strconv.ParseUint(f[9], 10, 64)
		if err != nil {
			return nil, fmt.Errorf("%s: inode: %w", k.file(), err)
		}
		all = append(all, inode)
	}
	slices.Sort(all)
	return slices.Compact(all), lines.Err()
}

// inodeOf returns what identifies the socket fd.
func inodeOf(fd int) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return 0, os.NewSyscallError("fstat", err)
	}
	return st.Ino, nil
}

// ownSockets returns the inodes of this process's sockets.
func ownSockets() (map[uint64]bool, error) {
	const dir = "/proc/self/fd"
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	own := map[uint64]bool{}
	for {
		names, err := d.Readdirnames(1024)
		for _, name := range names {
			target, err := os.Readlink(dir + "/" + name)
			if err != nil {
				continue // closed meanwhile
			}
			text, ok := strings.CutPrefix(target, "socket:[")
			if !ok {
				continue
			}
			if inode, err := strconv.ParseUint(strings.TrimSuffix(text, "]"), 10, 64); err == nil {
				own[inode] = true
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return own, nil
		case err != nil:
			return nil, err
		}
	}
}
