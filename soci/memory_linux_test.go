package soci_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/zstd"

	"github.com/penstock/penstock/internal/testorigin"
	"github.com/penstock/penstock/soci"
)

// Variables that make a process of this binary pull one image, see
// TestMemoryChild.
const (
	childRef    = "PENSTOCK_TEST_PULL"
	childDir    = "PENSTOCK_TEST_DIR"
	childMemory = "PENSTOCK_TEST_MEMORY"
)

// TestMemoryChild is the process that TestPrivMemoryBound measures.
func TestMemoryChild(t *testing.T) {
	ref := os.Getenv(childRef)
	if ref == "" {
		t.Skip("runs as a child of TestPrivMemoryBound")
	}
	// The parent first moves this process into the cgroup.
	if _, err := io.ReadAll(os.Stdin); err != nil {
		t.Fatal(err)
	}
	memory, _ := strconv.ParseInt(os.Getenv(childMemory), 10, 64)
	p := puller(t, func(o *soci.Options) { o.Memory, o.PartBytes = memory, 0 })
	_, err := p.Pull(t.Context(), ref, os.Getenv(childDir))
	status, _ := os.ReadFile("/proc/self/status")
	_, peak, _ := strings.Cut(string(status), "VmHWM:")
	var kib int64
	fmt.Sscan(peak, &kib)
	fmt.Println("PEAK", kib, "RESULT", err)
}

// many returns a layer of n entries.
func many(t *testing.T, n int, one func(i int) tar.Header) *layer {
	t.Helper()
	var plain, packed bytes.Buffer
	z, err := gzip.NewWriterLevel(&packed, gzip.BestSpeed)
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(io.MultiWriter(&plain, z))
	for i := range n {
		h := one(i)
		h.Mode, h.Uid, h.Gid = 0o755, os.Geteuid(), os.Getegid()
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	return &layer{tar: plain.Bytes(), data: packed.Bytes()}
}

// windowed returns a layer of n bytes whose zstd frame has a window of n bytes.
func windowed(t *testing.T, n, window int, seed byte) *layer {
	t.Helper()
	body := make([]byte, n)
	for i := 0; i < n; i += 4096 {
		body[i] = seed
	}
	plain := tarOf(t, fmt.Sprint("large", seed), string(body))
	var packed bytes.Buffer
	w, err := zstd.NewWriter(&packed, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(window), zstd.WithEncoderLevel(zstd.SpeedFastest))
	if err != nil {
		t.Fatal(err)
	}
	_, err = w.Write(plain)
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	return &layer{tar: plain, data: packed.Bytes(), mediaType: types.OCILayerZStd}
}

// memoryGroup creates a cgroup with a memory limit and returns a function by
// which a process joins it, or nil if the system does not allow one.
func memoryGroup(t *testing.T, limit int64) func(pid int) error {
	t.Helper()
	name := fmt.Sprintf("penstock-test-%d", os.Getpid())
	for _, at := range []struct{ dir, file string }{
		{"/sys/fs/cgroup/memory", "memory.limit_in_bytes"}, // version 1
		{"/sys/fs/cgroup", "memory.max"},
	} {
		if _, err := os.Stat(filepath.Join(at.dir, "cgroup.procs")); err != nil {
			continue
		}
		dir := filepath.Join(at.dir, name)
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Log("no cgroup, the high-water mark of the process alone is looked at: ", err)
			return nil
		}
		t.Cleanup(func() {
			if err := os.Remove(dir); err != nil {
				t.Error(err)
			}
		})
		if err := os.WriteFile(filepath.Join(dir, at.file), fmt.Append(nil, limit), 0o600); err != nil {
			t.Log("no limit of a cgroup, the high-water mark of the process alone is looked at: ", err)
			return nil
		}
		return func(pid int) error {
			return os.WriteFile(filepath.Join(dir, "cgroup.procs"), fmt.Append(nil, pid), 0o600)
		}
	}
	t.Log("no cgroup of memory is mounted, the high-water mark of the process alone is looked at")
	return nil
}

// TestPrivMemoryBound checks that a pulling process stays below Memory plus 64
// MiB for any image, and is not killed in a cgroup with that limit.
func TestPrivMemoryBound(t *testing.T) {
	if testing.Short() || os.Geteuid() != 0 {
		t.Skip("needs root for a cgroup, and some seconds")
	}
	const rest = 64 << 20
	o := origin(t, testorigin.Options{})
	for _, c := range []struct {
		name   string
		memory int64
		want   string
		layers []v1.Layer
	}{
		{"whiteouts", 64 << 20, "limit Metadata", []v1.Layer{many(t, 300_000, func(i int) tar.Header {
			return tar.Header{Name: fmt.Sprintf("%090d/.wh.%090d", i%10, i), Typeflag: tar.TypeReg}
		})}},
		{"links", 64 << 20, "limit Metadata", []v1.Layer{many(t, 200_000, func(i int) tar.Header {
			return tar.Header{Name: fmt.Sprintf("%090d", i), Linkname: fmt.Sprintf("none/%090d", i), Typeflag: tar.TypeLink}
		})}},
		{"windows", 64 << 20, "<nil>", []v1.Layer{
			windowed(t, 48<<20, 32<<20, 1), windowed(t, 48<<20, 32<<20, 2), windowed(t, 48<<20, 32<<20, 3), windowed(t, 48<<20, 32<<20, 4),
		}},
		{"a window", 64 << 20, "half of Memory", []v1.Layer{windowed(t, 80<<20, 64<<20, 5)}},
		{"large windows", 256 << 20, "<nil>", []v1.Layer{windowed(t, 140<<20, 128<<20, 6), windowed(t, 140<<20, 128<<20, 7)}},
	} {
		t.Run(c.name, func(t *testing.T) {
			ref := push(t, o, "memory/"+strings.ReplaceAll(c.name, " ", "-")+":1", image(t, here, c.layers...))
			join := memoryGroup(t, c.memory+rest)
			dir := filepath.Join(t.TempDir(), "root")
			cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestMemoryChild$", "-test.timeout=5m")
			cmd.Env = append(os.Environ(), childRef+"="+ref, childDir+"="+dir, childMemory+"="+fmt.Sprint(c.memory))
			var out bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &out
			in, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			if join != nil {
				if err := join(cmd.Process.Pid); err != nil {
					t.Error(err)
				}
			}
			err = errors.Join(in.Close(), cmd.Wait())
			said, result, _ := strings.Cut(out.String(), " RESULT ")
			_, said, _ = strings.Cut(said, "PEAK ")
			peak, perr := strconv.ParseInt(said, 10, 64)
			if err = errors.Join(err, perr); err != nil || !strings.Contains(result, c.want) {
				t.Errorf("%v: %s", err, out.String())
			}
			peak <<= 10 // from KiB
			t.Logf("%d MiB at most, %d MiB of Memory", peak>>20, c.memory>>20)
			if peak > c.memory+rest {
				t.Errorf("%d MiB, more than %d MiB and %d MiB", peak>>20, c.memory>>20, rest>>20)
			}
		})
	}
}
