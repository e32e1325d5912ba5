package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/penstock/penstock/benchmarks/internal/bench"
)

// The names of the objects, and of the access patterns.
const (
	bucket   = "bench"
	bigFile  = "big"
	smallDir = "small"

	patternBig    = "sequential"
	patternSmall  = "small files"
	patternRandom = "random"
)

const (
	readBuffer  = 1 << 20   // bytes per read of a sequential reader
	randomBytes = 128 << 10 // bytes of a random read, as in a shuffled data set
	smallBytes  = 64 << 10  // bytes of a small file
	// extraP99 is the 99th percentile of the time for one read or one small file.
	extraP99 = "p99_ms"
)

// reader reads from the mount at dir and compares with the files at ref.
type reader struct {
	dir, ref string
	random   int
	bytes    int64
	took     []time.Duration
}

var errCorrupt = errors.New("read bytes differ from the object")

// runRead is the role "read": it reads once and prints one line.
func runRead(args []string) error {
	var r reader
	fs := flag.NewFlagSet("read", flag.ContinueOnError)
	fs.StringVar(&r.dir, "dir", "", "mount point")
	fs.StringVar(&r.ref, "ref", "", "folder with the files as they should be")
	fs.IntVar(&r.random, "random", 0, "number of random reads")
	pattern := fs.String("pattern", "", "sequential, small files or random")
	if err := fs.Parse(args); err != nil {
		return err
	}
	run, ok := map[string]func() error{patternBig: r.sequential, patternSmall: r.smallFiles, patternRandom: r.randomly}[*pattern]
	if !ok {
		return fmt.Errorf("unknown pattern %q", *pattern)
	}
	start := time.Now()
	err := run()
	rep := bench.Report{Bytes: r.bytes, Seconds: time.Since(start).Seconds(), Outcome: bench.OutcomeOK}
	rep.Extra = map[string]float64{extraP99: float64(r.p99().Microseconds()) / 1e3}
	switch {
	case errors.Is(err, errCorrupt):
		rep.Outcome, rep.Error = bench.OutcomeCorrupt, err.Error()
	case err != nil:
		rep.Outcome, rep.Error = bench.OutcomeError, err.Error()
	}
	return errors.Join(err, bench.PrintReport(os.Stdout, rep))
}

func (r *reader) p99() time.Duration {
	if len(r.took) == 0 {
		return 0
	}
	slices.Sort(r.took)
	return r.took[len(r.took)*99/100]
}

func (r *reader) sequential() error {
	got, err := os.Open(filepath.Join(r.dir, bigFile))
	if err != nil {
		return err
	}
	defer got.Close()
	want, err := os.Open(filepath.Join(r.ref, bigFile))
	if err != nil {
		return err
	}
	defer want.Close()
	a, b := make([]byte, readBuffer), make([]byte, readBuffer)
	for {
		start := time.Now()
		n, err := io.ReadFull(got, a)
		r.took = append(r.took, time.Since(start))
		m, errWant := io.ReadFull(want, b)
		r.bytes += int64(n)
		if n != m || !bytes.Equal(a[:n], b[:m]) {
			return errors.Join(errCorrupt, ignoreEnd(err))
		}
		if errWant != nil {
			return ignoreEnd(err)
		}
		if err != nil {
			return err
		}
	}
}

// ignoreEnd drops the errors that mean the end of a file.
func ignoreEnd(err error) error {
	if err == io.EOF || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil
	}
	return err
}

func (r *reader) smallFiles() error {
	entries, err := os.ReadDir(filepath.Join(r.dir, smallDir))
	if err != nil {
		return err
	}
	want, err := os.ReadDir(filepath.Join(r.ref, smallDir))
	if err != nil {
		return err
	}
	if len(entries) != len(want) {
		return fmt.Errorf("%w: %d files listed instead of %d", errCorrupt, len(entries), len(want))
	}
	for _, e := range entries {
		start := time.Now()
		a, err := os.ReadFile(filepath.Join(r.dir, smallDir, e.Name()))
		r.took = append(r.took, time.Since(start))
		if err != nil {
			return err
		}
		b, err := os.ReadFile(filepath.Join(r.ref, smallDir, e.Name()))
		if err != nil {
			return err
		}
		r.bytes += int64(len(a))
		if !bytes.Equal(a, b) {
			return fmt.Errorf("%w: %s", errCorrupt, e.Name())
		}
	}
	return nil
}

func (r *reader) randomly() error {
	got, err := os.Open(filepath.Join(r.dir, bigFile))
	if err != nil {
		return err
	}
	defer got.Close()
	want, err := os.Open(filepath.Join(r.ref, bigFile))
	if err != nil {
		return err
	}
	defer want.Close()
	st, err := want.Stat()
	if err != nil {
		return err
	}
	a, b := make([]byte, randomBytes), make([]byte, randomBytes)
	rnd := rand.New(rand.NewPCG(1, 2)) // the same places for every mount
	for range r.random {
		off := rnd.Int64N((st.Size()-randomBytes)/randomBytes) * randomBytes
		start := time.Now()
		n, err := got.ReadAt(a, off)
		r.took = append(r.took, time.Since(start))
		r.bytes += int64(n)
		if err != nil {
			return err
		}
		if _, err := want.ReadAt(b, off); err != nil {
			return err
		}
		if !bytes.Equal(a, b) {
			return fmt.Errorf("%w: at %d", errCorrupt, off)
		}
	}
	return nil
}
