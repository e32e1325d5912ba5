package testsum

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// WriteSummary adds up a run from the files of a folder, writes its closing
// report, and reports whether the run counts as passed. The folder holds
// stages.tsv for AddStages, unsteady.tsv for MarkAllUnsteady unless every test was
// steady, and STAGE.json for each go test stage. known is the file of unsteady
// tests that do not fail the run today.
func WriteSummary(w io.Writer, dir, known string, m Machine, today time.Time) (bool, error) {
	var r Run
	stages, err := os.ReadFile(filepath.Join(dir, "stages.tsv"))
	if err != nil {
		return false, err
	}
	r.AddStages(string(stages))
	logs, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		return false, err
	}
	for _, l := range logs {
		if err := r.AddFile(l); err != nil {
			return false, err
		}
	}
	steady, err := r.writeUnsteady(w, filepath.Join(dir, "unsteady.tsv"), known, today)
	if err != nil {
		return false, err
	}
	if bad := r.Unjustified(m); len(bad) > 0 {
		fmt.Fprintln(w, "\nskipped although this machine could run them:")
		WriteFailures(w, bad)
	}
	if skips := r.Skips(); len(skips) > 0 {
		fmt.Fprintln(w, "\nskipped:")
		for _, s := range skips {
			fmt.Fprintf(w, "  %-60s %s\n", s.name(), s.Reason)
		}
	}
	if failed := r.Failures(); len(failed) > 0 {
		fmt.Fprintln(w, "\nfailed:")
		for _, f := range failed {
			fmt.Fprintf(w, "  %-60s in stage %s\n", f.name(), f.Stage)
		}
	}
	c := r.Counts()
	fmt.Fprintf(w, "\n%s\n", c)
	return steady && c.Failed == 0, nil
}

// writeUnsteady marks and writes the unsteady tests of a list, and reports
// whether the file of known ones excuses all of them.
func (r *Run) writeUnsteady(w io.Writer, list, known string, today time.Time) (bool, error) {
	data, err := os.ReadFile(list)
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	f, err := os.Open(known)
	if err != nil {
		return false, err
	}
	defer f.Close()
	excused, err := ReadKnown(f)
	if err != nil {
		return false, fmt.Errorf("%s: %w", known, err)
	}
	ok := true
	fmt.Fprintln(w, "\nunsteady (failed, then passed five times under the same load):")
	for _, o := range r.MarkAllUnsteady(string(data)) {
		why := Excuse(o, excused, today)
		if why == "" {
			why = "listed in " + known
		} else {
			ok = false
		}
		fmt.Fprintf(w, "  %-60s in stage %s: %s\n", o.name(), o.Stage, why)
	}
	return ok, nil
}

// AddFile records the output of one go test -json run, whose stage is the name of
// the file without its ending.
func (r *Run) AddFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return r.AddTests(strings.TrimSuffix(filepath.Base(path), ".json"), f)
}

// WriteFailures writes each failed test with its output.
func WriteFailures(w io.Writer, failed []Outcome) {
	for _, f := range failed {
		fmt.Fprintf(w, "--- %s\n%s", f.name(), f.Output)
	}
}

// name returns the package, without the module, and the test.
func (o Outcome) name() string {
	pkg := strings.TrimPrefix(strings.TrimPrefix(o.Package, "github.com/penstock/penstock"), "/")
	return strings.TrimSpace(pkg + " " + o.Test)
}
