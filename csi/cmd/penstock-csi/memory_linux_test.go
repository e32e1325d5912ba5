//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// memoryGroup makes a control group with a memory limit, and returns a function
// that puts a process into it. It skips the test where control groups are not
// available.
func memoryGroup(t *testing.T, limit int64) (enter func(pid int)) {
	t.Helper()
	root, file := "/sys/fs/cgroup/memory", "memory.limit_in_bytes" // version 1
	if _, err := os.Stat(filepath.Join(root, file)); err != nil {
		root, file = "/sys/fs/cgroup", "memory.max"
	}
	group := filepath.Join(root, fmt.Sprintf("penstock-csi-test-%d", os.Getpid()))
	if err := os.Mkdir(group, 0o755); err != nil {
		t.Skipf("needs a writable memory control group: %v", err)
	}
	t.Cleanup(func() {
		if err := os.Remove(group); err != nil {
			t.Error(err)
		}
	})
	if err := os.WriteFile(filepath.Join(group, file), []byte(strconv.FormatInt(limit, 10)), 0); err != nil {
		t.Skipf("needs the memory controller of control groups: %v", err)
	}
	return func(pid int) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(group, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0); err != nil {
			t.Fatal(err)
		}
	}
}

// peak returns the largest resident memory of a process so far, in MiB.
func peak(t *testing.T, pid int) int {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			var kib int
			if _, err := fmt.Sscan(rest, &kib); err != nil {
				t.Fatal(err)
			}
			return kib >> 10
		}
	}
	t.Fatal("no VmHWM")
	return 0
}

// TestPrivManyOpenFiles keeps 2,000 files open after reading them in order. The
// process stays within three times its memory for reads plus 64 MiB
// (docs/semantics.md), in a control group that kills it above that bound. Opens
// beyond the limit fail with an error that names the limit, and other programs
// continue to read.
func TestPrivManyOpenFiles(t *testing.T) {
	if testing.Short() {
		t.Skip("short mode: 1 GB through a mount")
	}
	o := origin(t)
	const files, size, handles, memory = 8, 4 << 20, 2000, 64
	sparse := filepath.Join(t.TempDir(), "sparse")
	if err := os.WriteFile(sparse, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(sparse, size); err != nil {
		t.Fatal(err)
	}
	for i := range files {
		if err := o.PutFile("models", fmt.Sprint("many/", i), sparse); err != nil {
			t.Fatal(err)
		}
	}
	const most = 3*memory + 64
	enter := memoryGroup(t, most<<20)
	dir := t.TempDir()
	cmd, lines := program(t, "mount", "models", dir, "--endpoint", o.URL(), "--memory", fmt.Sprint(memory, "MiB"))
	enter(cmd.Process.Pid)
	if !lines.Scan() || !strings.Contains(lines.Text(), "is mounted on") {
		t.Fatalf("said %q", lines.Text())
	}
	said := make(chan string, 1)
	go func() {
		var all strings.Builder
		for lines.Scan() {
			all.WriteString(lines.Text() + "\n")
		}
		said <- all.String()
	}()

	// With O_DIRECT each handle gets its bytes from the process, and not from the page cache that another one filled.
	open := func(i int) (int, error) {
		return unix.Open(fmt.Sprintf("%s/many/%d", dir, i%files), unix.O_RDONLY|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	}
	var mu sync.Mutex
	var fds []int
	next := make(chan int, handles)
	for i := range handles {
		next <- i
	}
	close(next)
	var wg sync.WaitGroup
	for range 32 {
		wg.Go(func() {
			p := make([]byte, 128<<10)
			for i := range next {
				fd, err := open(i)
				if err != nil {
					t.Errorf("open of file %d: %v", i, err)
					return
				}
				mu.Lock()
				fds = append(fds, fd)
				mu.Unlock()
				for off := int64(0); off < 4*int64(len(p)); off += int64(len(p)) {
					if n, err := unix.Pread(fd, p, off); err != nil || n != len(p) {
						t.Errorf("read of file %d: %d bytes, %v", i, n, err)
						return
					}
				}
			}
		})
	}
	wg.Wait()
	// Many threads, each of which repeatedly waits for replies of the largest size.
	for i := range 300 {
		wg.Go(func() {
			p, err := unix.Mmap(-1, 0, 1<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON) // aligned
			if err != nil {
				t.Error(err)
				return
			}
			for off := range int64(4) {
				if n, err := unix.Pread(fds[i%len(fds)], p, off<<20); err != nil || n != len(p) {
					t.Errorf("a large read: %d bytes, %v", n, err)
				}
			}
			if err := unix.Munmap(p); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	t.Logf("%d handles: %d MiB at the peak, the bound is %d MiB", len(fds), peak(t, cmd.Process.Pid), most)
	var err error
	for err == nil && len(fds) < 2*handles {
		var fd int
		if fd, err = open(0); err == nil {
			fds = append(fds, fd)
		}
	}
	if !errors.Is(err, syscall.ENFILE) {
		t.Errorf("%d files are open, the next one is %v, want ENFILE", len(fds), err)
	}
	for _, fd := range fds {
		if err := unix.Close(fd); err != nil {
			t.Error(err)
		}
	}
	if b, err := os.ReadFile(dir + "/dir/file"); err != nil || string(b) != "right bytes" {
		t.Errorf("after the close: %q, %v", b, err)
	}
	if p := peak(t, cmd.Process.Pid); p > most {
		t.Errorf("%d MiB at the peak, want at most %d", p, most)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	log := <-said
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v\n%s", err, log)
	}
	if !strings.Contains(log, "too many open files") || !strings.Contains(log, "more memory") {
		t.Errorf("the log says nothing of the limit: %q", log)
	}
}
