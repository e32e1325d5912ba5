package soci

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// TestDocumentedDefaults checks that docs/soci.md and docs/configuration.md state
// the defaults of the code.
func TestDocumentedDefaults(t *testing.T) {
	t.Parallel()
	read := func(name string) string {
		raw, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		return string(raw)
	}
	page, configuration := read("../docs/soci.md"), read("../docs/configuration.md")
	l := Options{}.withDefaults().Limits
	memory := fmt.Sprintf("%d MiB, or a quarter of the process's memory limit if that is less |", defaultMemory/mib)
	for _, tt := range []struct{ in, want string }{
		{configuration, "| `soci` | `Memory`, `--memory` | " + memory},
		{page, "| `Memory`, `--memory` | " + memory},
		{page, fmt.Sprintf("| `PartBytes` | %d MiB at most", defaultPart/mib)},
		{page, fmt.Sprintf("| `CheckpointBytes`, `--checkpoint` | %d MiB of tar |", defaultCheckpoint/mib)},
		{page, fmt.Sprintf("| `Entries` | %d million |", l.Entries/1_000_000)},
		{page, fmt.Sprintf("| `Depth`, `NameLen` | %d, %d |", l.Depth, l.NameLen)},
		{page, fmt.Sprintf("| `TotalSize` | %d TiB |", l.TotalSize>>40)},
		{page, fmt.Sprintf("| `Attributes` | %d MiB |", l.Attributes/mib)},
		{page, fmt.Sprintf("| `Window` | %d MiB |", l.Window/mib)},
		{page, fmt.Sprintf("| `Ratio` | %g |", l.Ratio)},
	} {
		if !strings.Contains(tt.in, tt.want) {
			t.Errorf("the documents do not have %q", tt.want)
		}
	}
	o := Options{Memory: 64 * mib}.withDefaults()
	if o.Limits.Metadata != o.Memory/2 {
		t.Errorf("Metadata is %d of %d: documented is a half", o.Limits.Metadata, o.Memory)
	}
	// The documents assume that the process may open many files.
	if o := (Options{}).share(8, 1<<20); o.Parallelism != 8 || o.Writers != 16 {
		t.Errorf("%d layers, %d writers with 8 processors: documented are 8 and 16", o.Parallelism, o.Writers)
	}
	if o := (Options{}).share(1, 1<<20); o.Parallelism != 3 {
		t.Errorf("%d layers with one processor: documented are 3", o.Parallelism)
	}
}
