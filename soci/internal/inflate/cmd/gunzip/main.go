// Command gunzip decodes one file with the decoder of soci, throws the bytes away and prints one JSON line: what
// `make bench AREA=inflate` runs beside other decoders, in a process of its own like theirs.
//
//	gunzip -file layer.tar.gz [-workers 2]
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/penstock/penstock/soci/internal/inflate"
)

// copyBuffer is what soci reads at a time.
const copyBuffer = 1 << 20 // bytes

// report is the line that the benchmark frame reads.
type report struct {
	Bytes   int64   `json:"bytes"`
	Seconds float64 `json:"seconds"`
	Outcome string  `json:"outcome"`
	Error   string  `json:"error,omitempty"`
}

func main() {
	file := flag.String("file", "", "`file` to decode")
	workers := flag.Int("workers", 0, "cores for layers of several members; 0: one")
	flag.Parse()
	r := report{Outcome: "ok"}
	start := time.Now()
	var err error
	if r.Bytes, err = decode(*file, *workers); err != nil {
		r.Outcome, r.Error = "error", err.Error()
	}
	r.Seconds = time.Since(start).Seconds()
	if jerr := json.NewEncoder(os.Stdout).Encode(r); jerr != nil || err != nil {
		fmt.Fprintln(os.Stderr, "gunzip:", err, jerr)
		os.Exit(1)
	}
}

func decode(file string, workers int) (int64, error) {
	f, err := os.Open(file)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	r, err := inflate.NewReader(f, inflate.Options{Workers: workers})
	if err != nil {
		return 0, err
	}
	defer r.Close()
	// Only Read, as soci does: a WriteTo would write in pieces of its own.
	return io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{r}, make([]byte, copyBuffer))
}
