// Command testsum prints what a test run did.
//
//	testsum report LOG.json          the failures of one stage, from go test -json
//	testsum again LOG.json           the failed tests that are worth a second run: package TAB test
//	testsum summary DIR              all stages of DIR: skips, failures, closing line
//
// DIR holds stages.tsv (name, status, reason), unsteady.tsv (package, test, stage: what
// failed and passed by itself), and one STAGE.json for each go test stage. The exit code is 1 when anything failed, or when a test was
// skipped for want of something that this machine has.
package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/penstock/penstock/internal/lint/testsum"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "testsum:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 2 {
		return fmt.Errorf("usage: testsum report LOG.json | testsum again LOG.json | testsum summary DIR")
	}
	switch args[0] {
	case "report":
		return report(args[1])
	case "again":
		return again(args[1])
	case "summary":
		return summary(args[1])
	}
	return fmt.Errorf("unknown command %q: use report, again or summary", args[0])
}

func report(path string) error {
	var r testsum.Run
	if err := addFile(&r, path); err != nil {
		return err
	}
	printFailures(r.Failures())
	fmt.Println(r.Counts())
	return nil
}

func again(path string) error {
	var r testsum.Run
	if err := addFile(&r, path); err != nil {
		return err
	}
	for _, o := range r.Again() {
		fmt.Printf("%s\t%s\n", o.Package, o.Test)
	}
	return nil
}

// forgive prints the tests that passed by themselves, and takes them for passed.
func forgive(r *testsum.Run, path string) error {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	fmt.Println("\nunsteady: failed once, and passed five times alone; the fault is to be found:")
	printWhere(r.ForgiveAll(string(data)))
	return nil
}

func printWhere(fs []testsum.Outcome) {
	for _, f := range fs {
		fmt.Printf("  %-60s in stage %s\n", name(f), f.Stage)
	}
}

func summary(dir string) error {
	var r testsum.Run
	stages, err := os.ReadFile(filepath.Join(dir, "stages.tsv"))
	if err != nil {
		return err
	}
	r.AddStages(string(stages))
	logs, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		return err
	}
	for _, l := range logs {
		if err := addFile(&r, l); err != nil {
			return err
		}
	}
	if err := forgive(&r, filepath.Join(dir, "unsteady.tsv")); err != nil {
		return err
	}
	if bad := r.Unjustified(testsum.ThisMachine()); len(bad) > 0 {
		fmt.Println("\nskipped although this machine could run them:")
		printFailures(bad)
	}
	if skips := r.Skips(); len(skips) > 0 {
		fmt.Println("\nskipped:")
		for _, s := range skips {
			fmt.Printf("  %-60s %s\n", name(s), s.Reason)
		}
	}
	if failed := r.Failures(); len(failed) > 0 {
		fmt.Println("\nfailed:")
		printWhere(failed)
	}
	c := r.Counts()
	fmt.Printf("\n%s\n", c)
	if c.Failed > 0 {
		os.Exit(1)
	}
	return nil
}

func printFailures(fs []testsum.Outcome) {
	for _, f := range fs {
		fmt.Printf("--- %s\n%s", name(f), f.Output)
	}
}

func name(o testsum.Outcome) string {
	pkg := strings.TrimPrefix(strings.TrimPrefix(o.Package, "github.com/penstock/penstock"), "/")
	return strings.TrimSuffix(strings.TrimPrefix(pkg+" "+o.Test, " "), " ")
}

func addFile(r *testsum.Run, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return r.AddTests(strings.TrimSuffix(filepath.Base(path), ".json"), f)
}
