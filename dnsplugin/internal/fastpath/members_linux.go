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

// groupKey identifies a group of the kernel. Two addresses of a Corefile may
// share a group (0.0.0.0 and :: are the same to Go), and sockets of other
// processes may be in it.
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

// procAddr returns an address in the form of /proc/net: words in the byte order
// of the machine, in hexadecimal.
func procAddr(addr []byte, port int) string {
	var b strings.Builder
	for ; len(addr) > 0; addr = addr[4:] {
		fmt.Fprintf(&b, "%08X", binary.NativeEndian.Uint32(addr))
	}
	fmt.Fprintf(&b, ":%04X", port)
	return b.String()
}

// file returns the file in which the kernel lists sockets of this kind.
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

// stableMembers reads members until two lists agree. The kernel builds a list
// in pieces, so it may omit or repeat a socket while others open and close.
func (k groupKey) stableMembers() ([]uint64, error) {
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

// scan returns the sorted inodes of the group's sockets in a list of sockets.
func (k groupKey) scan(r io.Reader) ([]uint64, error) {
	const listening, unconnected = "0A", "07"
	var all []uint64
	lines := bufio.NewScanner(r)
	lines.Scan() // the heading
	local := []byte(" " + k.local + " ")
	for lines.Scan() {
		// A node may have tens of thousands of sockets outside the group.
		if !k.tcp && !bytes.Contains(lines.Bytes(), local) {
			continue
		}
		f := strings.Fields(lines.Text())
		if len(f) < 10 {
			return nil, fmt.Errorf("%s: a line of %d fields", k.file(), len(f))
		}
		state := f[3]
		if k.tcp && state != listening {
			break // listening sockets come first, and 100,000 others may follow
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

// inodeOf returns the inode of the socket fd, which identifies it.
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
				continue // it was closed
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
