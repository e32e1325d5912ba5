// Command gunzip decodes one file with the decoder of soci, discards the output
// and prints one JSON line. `make bench AREA=inflate` compares it with other
// decoders, each in a process of its own.
//
//	gunzip -file layer.tar.gz [-workers 2] [-write-index layer.idx]
//
// With -write-index it records an index while it decodes, as the first pull of
// a layer does.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/penstock/penstock/soci/internal/inflate"
	"github.com/penstock/penstock/soci/internal/inflate/index"
)

// copyBuffer is the size of one read, as in soci.
const copyBuffer = 1 << 20 // bytes

// report is the line that the benchmark frame reads.
type report struct {
	Bytes   int64   `json:"bytes"`
	Seconds float64 `json:"seconds"`
	Outcome string  `json:"outcome"`
	Error   string  `json:"error,omitempty"`
}

// job holds the flags.
type job struct {
	file, write string
	workers     int
	span        int64
}

func main() {
	var j job
	flag.StringVar(&j.file, "file", "", "`file` to decode")
	flag.IntVar(&j.workers, "workers", 0, "number of cores (0 means one)")
	flag.StringVar(&j.write, "write-index", "", "`file` to write an index to")
	flag.Int64Var(&j.span, "span", 0, "least `bytes` of output between two points of the index (0 means the default)")
	flag.Parse()
	os.Exit(j.main(os.Stdout, os.Stderr))
}

// main runs the job and prints its report.
func (j job) main(stdout, stderr io.Writer) int {
	r := report{Outcome: "ok"}
	start := time.Now()
	var err error
	if r.Bytes, err = j.decode(); err != nil {
		r.Outcome, r.Error = "error", err.Error()
	}
	r.Seconds = time.Since(start).Seconds()
	if jerr := json.NewEncoder(stdout).Encode(r); jerr != nil || err != nil {
		_, _ = fmt.Fprintln(stderr, "gunzip:", err, jerr)
		return 1
	}
	return 0
}

// decode decodes the file and writes its index.
func (j job) decode() (int64, error) {
	f, err := os.Open(j.file)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	opts := inflate.Options{Workers: j.workers}
	if j.write != "" {
		opts.Record = index.NewRecorder(j.span)
	}
	r, err := inflate.NewReader(f, opts)
	if err != nil {
		return 0, err
	}
	defer r.Close()
	// The wrappers make CopyBuffer call only Read, as soci does. WriteTo would
	// choose other sizes of pieces.
	n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{r}, make([]byte, copyBuffer))
	if err != nil || j.write == "" {
		return n, err
	}
	fi, err := f.Stat()
	if err != nil {
		return n, err
	}
	x, err := opts.Record.Index(index.Blob{Size: fi.Size(), Out: n})
	if err != nil {
		return n, err
	}
	return n, writeIndex(j.write, x)
}

// writeIndex writes x. If that fails, it removes the file, unless it is not a
// regular file.
func writeIndex(path string, x *index.Index) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	st, err := f.Stat()
	if err = errors.Join(err, x.Save(f), f.Close()); err != nil {
		if st != nil && st.Mode().IsRegular() {
			err = errors.Join(err, os.Remove(path))
		}
		return err
	}
	return nil
}
