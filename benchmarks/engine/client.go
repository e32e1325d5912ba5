package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/penstock/penstock/benchmarks/internal/bench"
	"github.com/penstock/penstock/internal/ranges"
)

// job is the work of one of our clients; the peers take the same flags.
type job struct {
	endpoint    string
	bucket, key string
	objects     int // if 0, key is one object; else the objects are key/00000 to key/(objects-1)
	conns       int
	part        int64
	budget      int64
	verify      string
}

// reader fetches the objects of the job and returns the number of delivered bytes.
type reader func(ctx context.Context, j job, ref []byte) (int64, map[string]float64, error)

// runClient is the role of a contestant, which reads once and prints one line.
func runClient(ctx context.Context, args []string, read reader) error {
	var j job
	fs := flag.NewFlagSet("client", flag.ContinueOnError)
	fs.StringVar(&j.endpoint, "endpoint", "", "S3 endpoint `URL`")
	fs.StringVar(&j.bucket, "bucket", "", "bucket")
	fs.StringVar(&j.key, "key", "", "key, or prefix of the keys with -objects")
	fs.IntVar(&j.objects, "objects", 0, "number of objects below the prefix")
	fs.IntVar(&j.conns, "conns", 16, "parallel requests")
	fs.Int64Var(&j.part, "part", 8<<20, "part size in bytes")
	fs.Int64Var(&j.budget, "budget", 256<<20, "bytes that the engine may hold")
	fs.StringVar(&j.verify, "verify", "", "compare the delivered bytes with this `file`")
	if err := fs.Parse(args); err != nil {
		return err
	}
	ref, err := openReference(j.verify)
	if err != nil {
		return err
	}
	start := time.Now()
	n, extra, err := read(ctx, j, ref)
	r := bench.Report{Bytes: n, Seconds: time.Since(start).Seconds(), Outcome: bench.OutcomeOK, Extra: extra}
	if err != nil {
		r.Outcome, r.Error = classify(err), err.Error()
	}
	if err := bench.PrintReport(os.Stdout, r); err != nil {
		return err
	}
	if err != nil {
		return errors.New(r.Outcome)
	}
	return nil
}

var errCorrupt = errors.New("delivered bytes differ from the object")

func classify(err error) string {
	switch {
	case errors.Is(err, errCorrupt):
		return bench.OutcomeCorrupt
	case errors.Is(err, ranges.ErrChanged):
		return bench.OutcomeTyped
	}
	return bench.OutcomeError
}

// openReference maps the file with the expected bytes.
func openReference(path string) ([]byte, error) {
	if path == "" {
		return nil, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	return syscall.Mmap(int(f.Fd()), 0, int(st.Size()), syscall.PROT_READ, syscall.MAP_SHARED)
}

// sink discards the bytes, after comparing them with the reference if there is one.
type sink struct {
	ref   []byte
	bytes atomic.Int64
	bad   atomic.Bool
}

func (s *sink) writeAt(p []byte, off int64) {
	s.bytes.Add(int64(len(p)))
	if s.ref == nil || s.bad.Load() {
		return
	}
	if end := off + int64(len(p)); end > int64(len(s.ref)) || !bytes.Equal(p, s.ref[off:end]) {
		s.bad.Store(true)
	}
}

// check turns a reported success with wrong or missing bytes into errCorrupt. Wrong
// bytes before a reported error don't count.
func (s *sink) check(err error) error {
	switch {
	case err != nil:
		return err
	case s.bad.Load(), s.ref != nil && s.bytes.Load() != int64(len(s.ref)):
		return errCorrupt
	}
	return nil
}

// smallName is the key of small object i.
func (j job) smallName(i int) string { return fmt.Sprintf("%s/%05d", j.key, i) }
