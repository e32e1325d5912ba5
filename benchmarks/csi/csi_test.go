package main

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/penstock/penstock/benchmarks/internal/bench"
)

// The access patterns find every wrong byte, on any file system.
func TestReadersCompare(t *testing.T) {
	t.Parallel()
	ref, dir := t.TempDir(), t.TempDir()
	for _, root := range []string{ref, dir} {
		if err := os.Mkdir(filepath.Join(root, smallDir), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := bench.WriteObject(filepath.Join(root, bigFile), 3<<20+5, 0); err != nil {
			t.Fatal(err)
		}
		if err := bench.WriteObject(filepath.Join(root, smallDir, "0"), smallBytes, 1<<32); err != nil {
			t.Fatal(err)
		}
	}
	patterns := map[string]func(*reader) error{
		patternBig: (*reader).sequential, patternSmall: (*reader).smallFiles, patternRandom: (*reader).randomly,
	}
	for name, run := range patterns {
		r := &reader{dir: dir, ref: ref, random: 20}
		if err := run(r); err != nil || r.bytes == 0 || len(r.took) == 0 {
			t.Errorf("%s: %v, %d bytes", name, err, r.bytes)
		}
	}
	for _, f := range []string{bigFile, filepath.Join(smallDir, "0")} {
		if err := bench.WriteObject(filepath.Join(dir, f), 3<<20+5, 9<<32); err != nil {
			t.Fatal(err)
		}
	}
	for name, run := range patterns {
		if err := run(&reader{dir: dir, ref: ref, random: 20}); !errors.Is(err, errCorrupt) {
			t.Errorf("%s: %v, want the comparison to fail", name, err)
		}
	}
}

func TestContainsMount(t *testing.T) {
	t.Parallel()
	table := "tmpfs /dev/shm tmpfs rw 0 0\ns3fs /mnt/a fuse rw 0 0\n"
	if !containsMount(table, "/mnt/a") || containsMount(table, "/mnt") || containsMount("", "/mnt/a") {
		t.Error("mount points are not told apart")
	}
}

func TestOptionsSayWhatIsWrong(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"x"}, {"-rounds", "0"}, {"-size", "1"}, {"-small", "0"}, {"-nonsense"}} {
		if _, err := parseOptions(args); err == nil {
			t.Errorf("%v: no error", args)
		}
	}
}
