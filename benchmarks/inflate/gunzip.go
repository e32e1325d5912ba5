package main

import (
	stdgzip "compress/gzip"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/klauspost/compress/gzip"

	"github.com/penstock/penstock/benchmarks/internal/bench"
)

// copyBuffer is the size of the reads and writes of soci.
const copyBuffer = 1 << 20 // bytes

// runGunzip is the role "gunzip". It decodes one file and prints a report.
func runGunzip(args []string) error {
	fs := flag.NewFlagSet("gunzip", flag.ContinueOnError)
	decoder := fs.String("decoder", "", "klauspost or std")
	path := fs.String("file", "", "file to decode")
	if err := fs.Parse(args); err != nil {
		return err
	}
	f, err := os.Open(*path)
	if err != nil {
		return err
	}
	defer f.Close()
	start := time.Now()
	var r io.Reader
	switch *decoder {
	case "klauspost":
		r, err = gzip.NewReader(f)
	case "std":
		r, err = stdgzip.NewReader(f)
	default:
		return fmt.Errorf("unknown decoder %q", *decoder)
	}
	if err != nil {
		return err
	}
	// Only Read, because WriteTo would choose other sizes of pieces.
	n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{r}, make([]byte, copyBuffer))
	rep := bench.Report{Bytes: n, Seconds: time.Since(start).Seconds(), Outcome: bench.OutcomeOK}
	if err != nil {
		rep.Outcome, rep.Error = bench.OutcomeError, err.Error()
	}
	return errors.Join(err, bench.PrintReport(os.Stdout, rep))
}
