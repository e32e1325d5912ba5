// Command measure prints the figures of style of one or more trees side by side.
//
//	measure TREE...
//
// A tree is a folder that git tracks; "." is this one. To compare with an earlier
// commit, give a work tree of it: git worktree add /tmp/before COMMIT.
package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/penstock/penstock/internal/lint/measure"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "measure:", err)
		os.Exit(1)
	}
}

func run(tops []string) error {
	if len(tops) == 0 {
		tops = []string{"."}
	}
	trees := make([]*measure.Tree, 0, len(tops))
	for _, top := range tops {
		out, err := exec.Command("git", "-C", top, "ls-files").Output()
		if err != nil {
			return fmt.Errorf("git ls-files in %s: %w", top, err)
		}
		var files []string
		for _, f := range strings.Fields(string(out)) {
			if _, err := os.Stat(filepath.Join(top, f)); err == nil {
				files = append(files, f)
			}
		}
		t, err := measure.Read(top, files)
		if err != nil {
			return err
		}
		trees = append(trees, t)
	}
	measure.Write(os.Stdout, tops, trees)
	return nil
}
