package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/penstock/penstock/benchmarks/internal/bench"
)

// The cases.
const (
	caseMemory = "memory" // the realistic image, roots in memory: the figures that count
	caseDisk   = "disk"   // the realistic image, roots on a disk, flushed at the end
	caseOne    = "one"    // one dominant layer
	caseFifty  = "fifty"  // fifty equal layers
	caseTiny   = "tiny"   // 20,000 tiny files
	caseBusy   = "busy"   // each connection is slow
	caseSmall  = "small"  // of -quick
)

var caseNames = []string{caseMemory, caseDisk, caseOne, caseFifty, caseTiny, caseBusy}

// someRounds is enough for cases whose target is to be no worse.
const someRounds = 3

// facts are the figures of an image that reports need after its files are gone.
type facts struct {
	Layers     int   `json:"layers"`
	Compressed int64 `json:"compressed"`
	Tar        int64 `json:"tar"`
	Full       int64 `json:"full"` // see image.full
	Entries    int   `json:"entries"`
}

// finished is a measured case.
type finished struct {
	Case     string         `json:"case"`
	Title    string         `json:"title"`
	Image    facts          `json:"image"`
	Measured bench.Measured `json:"measured"`
}

func (f finished) onDisk() bool { return f.Case == caseDisk }

func title(name string, o options) string {
	switch name {
	case caseMemory:
		return "realistic image in memory"
	case caseDisk:
		return "realistic image on a disk"
	case caseOne:
		return "one dominant layer, in memory"
	case caseFifty:
		return "fifty equal layers, in memory"
	case caseTiny:
		return "20,000 tiny files, in memory"
	case caseBusy:
		return fmt.Sprintf("one dominant layer, %d MiB/s for a connection", o.connRate>>20)
	}
	return name
}

// prepare makes the image of a case in dir.
func prepare(ctx context.Context, name string, o options, dir string) (*image, error) {
	switch name {
	case caseOne, caseBusy:
		return oneLayer(ctx, dir)
	case caseFifty:
		return fiftyLayers(ctx, dir)
	case caseTiny:
		return tinyFiles(ctx, dir)
	case caseSmall:
		return smallImage(ctx, dir)
	}
	if o.image != "" {
		return readLayout(o.image)
	}
	return realistic(ctx, dir)
}

// kept is a file of finished cases.
type kept struct {
	Commit string     `json:"commit"`
	Cases  []finished `json:"cases"`
}

// readKept reads the cases of earlier runs, which must be of the same commit.
func readKept(name, commit string) (kept, error) {
	k := kept{Commit: commit}
	if name == "" {
		return k, nil
	}
	data, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return k, nil
	}
	if err != nil {
		return k, err
	}
	if err := json.Unmarshal(data, &k); err != nil {
		return k, fmt.Errorf("%s holds no cases: %w", name, err)
	}
	if k.Commit != commit {
		return k, fmt.Errorf("%s has cases of commit %s, and this is %s: remove it", name, k.Commit, commit)
	}
	return k, nil
}

func (k kept) write(name string) error {
	if name == "" {
		return nil
	}
	data, err := json.Marshal(k)
	if err != nil {
		return err
	}
	return os.WriteFile(name, data, 0o644)
}

func (k kept) has(name string) bool {
	for _, f := range k.Cases {
		if f.Case == name {
			return true
		}
	}
	return false
}
