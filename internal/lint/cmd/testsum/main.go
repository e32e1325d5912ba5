// Command testsum prints what a test run did.
//
//	testsum report LOG.json          the failures of one stage, from go test -json
//	testsum again LOG.json           the failed tests that are worth a second run: package TAB test
//	testsum rotate SEED < LIST       the lines of LIST, from one that SEED decides; SEED "" leaves them
//	testsum summary DIR              all stages of DIR: skips, failures, closing line
//
// DIR holds stages.tsv (name, status, reason), unsteady.tsv (package, test, stage) with the tests
// that failed and passed when they were run again, and one STAGE.json for each go test stage. The
// exit code is 1 when a test failed, was unsteady without being listed in
// internal/lint/testdata/unsteady.known, or was skipped for want of something that this machine has.
package main

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/penstock/penstock/internal/lint/testsum"
)

// knownFile lists the unsteady tests that do not fail the run yet; the program
// runs at the top of the tree.
const knownFile = "internal/lint/testdata/unsteady.known"

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "testsum:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 2 {
		return fmt.Errorf("usage: testsum report LOG.json | again LOG.json | rotate SEED | summary DIR")
	}
	switch args[0] {
	case "report":
		return report(args[1])
	case "again":
		return again(args[1])
	case "rotate":
		return rotate(args[1])
	case "summary":
		return summary(args[1])
	}
	return fmt.Errorf("unknown command %q: use report, again, rotate or summary", args[0])
}

func report(path string) error {
	var r testsum.Run
	if err := r.AddFile(path); err != nil {
		return err
	}
	testsum.WriteFailures(os.Stdout, r.Failures())
	fmt.Println(r.Counts())
	return nil
}

func again(path string) error {
	var r testsum.Run
	if err := r.AddFile(path); err != nil {
		return err
	}
	for _, o := range r.Again() {
		fmt.Printf("%s\t%s\n", o.Package, o.Test)
	}
	return nil
}

func rotate(seed string) error {
	in, err := io.ReadAll(os.Stdin)
	if err != nil {
		return err
	}
	fmt.Print(strings.Join(testsum.Rotate(slices.Collect(strings.Lines(string(in))), seed), ""))
	return nil
}

func summary(dir string) error {
	ok, err := testsum.WriteSummary(os.Stdout, dir, knownFile, testsum.ThisMachine(), time.Now())
	if err == nil && !ok {
		os.Exit(1)
	}
	return err
}
