// Command prose counts habits of English that are hard to read; package
// internal/lint/prose says which and why.
//
//	prose [-list] [DIR...]     counts for 1,000 lines of prose, below the folders given
//	prose -check               fails on a folder above its ceiling; lists its sentences
//	prose -change BASE         the sentences on lines that changed since the commit BASE
//	prose -lower               writes the ceilings that are needed now; never a higher one
//
// -against DIR... compares with other trees: their rate stands in a second
// column. The ceilings are in internal/lint/testdata/prose.ceilings.
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/penstock/penstock/internal/lint/prose"
)

const ceilingsFile = "internal/lint/testdata/prose.ceilings"

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "prose:", err)
		os.Exit(1)
	}
}

func run() error {
	list := flag.Bool("list", false, "print every sentence that shows a habit")
	check := flag.Bool("check", false, "fail on a folder above its ceiling")
	change := flag.String("change", "", "print the sentences on lines that changed since this `commit`")
	lower := flag.Bool("lower", false, "write the ceilings that are needed now")
	against := flag.String("against", "", "print the rates of another `tree` in a second column")
	flag.Parse()
	units, err := tree(".", flag.Args())
	if err != nil {
		return err
	}
	switch {
	case *check:
		return checkCeilings(units)
	case *change != "":
		out, err := exec.Command("git", "diff", "-U0", "--no-color", *change, "--", "*.go", "*.md").Output()
		if err != nil {
			return fmt.Errorf("git diff %s: %w", *change, err)
		}
		prose.WriteFindings(os.Stdout, prose.Changed(units, string(out)))
		return nil
	case *lower:
		return lowerCeilings(units)
	case *list:
		for _, u := range units {
			prose.WriteFindings(os.Stdout, u.Findings)
		}
		return nil
	}
	var others []*prose.Unit
	if *against != "" {
		if others, err = tree(*against, nil); err != nil {
			return err
		}
	}
	prose.WriteRates(os.Stdout, units, others)
	return nil
}

// tree returns the units of the files that git knows below the folders.
func tree(top string, dirs []string) ([]*prose.Unit, error) {
	args := append([]string{"-C", top, "ls-files", "--cached", "--others", "--exclude-standard", "--"}, dirs...)
	out, err := exec.Command("git", args...).Output()
	if err != nil {
		return nil, fmt.Errorf("git ls-files: %w", err)
	}
	var files []string
	for _, f := range strings.Fields(string(out)) {
		if _, err := os.Stat(filepath.Join(top, f)); err == nil {
			files = append(files, f)
		}
	}
	return prose.Tree(top, files)
}

func readCeilings() (prose.Ceilings, error) {
	b, err := os.ReadFile(ceilingsFile)
	if err != nil {
		return nil, err
	}
	return prose.ReadCeilings(bytes.NewReader(b))
}

func checkCeilings(units []*prose.Unit) error {
	ceilings, err := readCeilings()
	if err != nil {
		return err
	}
	violations := prose.Check(units, ceilings)
	for _, v := range violations {
		fmt.Println(v)
		prose.WriteFindings(os.Stdout, v.Findings)
	}
	if len(violations) > 0 {
		return fmt.Errorf("%d ceilings do not hold", len(violations))
	}
	return nil
}

func lowerCeilings(units []*prose.Unit) error {
	old, err := readCeilings()
	if err != nil {
		return err
	}
	needed := prose.Needed(units)
	if raised := needed.Raised(old); len(raised) > 0 {
		return errors.New("a ceiling may only fall; rewrite these sentences instead:\n  " + strings.Join(raised, "\n  "))
	}
	b, err := os.ReadFile(ceilingsFile)
	if err != nil {
		return err
	}
	var out bytes.Buffer
	for _, line := range strings.SplitAfter(string(b), "\n") {
		if !strings.HasPrefix(line, "#") {
			break
		}
		out.WriteString(line)
	}
	if _, err := needed.WriteTo(&out); err != nil {
		return err
	}
	return os.WriteFile(ceilingsFile, out.Bytes(), 0o644) //nolint:gosec // a file of the source tree
}
