// Command commits checks commit messages, and that no commit raises a ceiling.
//
//	commits -message FILE      the message of a commit in the making, for the commit-msg hook
//	commits [-since BASE]      every commit after BASE
//
// Without -since, BASE is the commit in internal/lint/testdata/commits.since, from
// which on the rules hold. In a shallow clone that lacks it, the newest commit
// alone is checked.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"github.com/penstock/penstock/internal/lint/commits"
	"github.com/penstock/penstock/internal/lint/prose"
)

const (
	sinceFile    = "internal/lint/testdata/commits.since"
	ceilingsFile = "internal/lint/testdata/prose.ceilings"
)

func main() {
	message := flag.String("message", "", "check the message in this `file`")
	since := flag.String("since", "", "check the commits after this `commit`")
	flag.Parse()
	problems, err := check(*message, *since)
	for _, p := range problems {
		fmt.Fprintln(os.Stderr, "commits:", p)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "commits:", err)
	}
	if err != nil || len(problems) > 0 {
		os.Exit(1)
	}
}

func check(message, since string) ([]string, error) {
	if message != "" {
		b, err := os.ReadFile(message)
		return commits.Check(withoutComments(string(b))), err
	}
	ids, err := after(since)
	if err != nil {
		return nil, err
	}
	var problems []string
	for _, id := range ids {
		text, err := git("log", "-1", "--format=%B", id)
		if err != nil {
			return nil, err
		}
		found := commits.Check(text)
		raised, err := raisedBy(id)
		if err != nil {
			return nil, err
		}
		for _, p := range append(found, raised...) {
			problems = append(problems, id[:8]+": "+p)
		}
	}
	return problems, nil
}

// after returns the commits after base, oldest first.
func after(base string) ([]string, error) {
	if base == "" {
		b, err := os.ReadFile(sinceFile)
		if err != nil {
			return nil, err
		}
		base = strings.TrimSpace(string(b))
	}
	if _, err := git("merge-base", "--is-ancestor", base, "HEAD"); err != nil {
		out, err := git("rev-parse", "HEAD")
		return strings.Fields(out), err
	}
	out, err := git("rev-list", "--reverse", "--no-merges", base+"..HEAD")
	return strings.Fields(out), err
}

// raisedBy returns the ceilings of prose that the commit raises. The first commit
// that has ceilings raises none, and neither does the end of a shallow clone.
func raisedBy(id string) ([]string, error) {
	newer, err := ceilingsAt(id)
	if err != nil || newer == nil {
		return nil, err
	}
	older, err := ceilingsAt(id + "^")
	if err != nil || older == nil {
		return nil, err
	}
	raised := newer.Raised(older)
	for i, r := range raised {
		raised[i] = "raises a ceiling of " + ceilingsFile + ": " + r
	}
	return raised, nil
}

// ceilingsAt returns the ceilings of a commit, or nil if it has none or is missing.
func ceilingsAt(commit string) (prose.Ceilings, error) {
	listed, err := git("ls-tree", "--name-only", commit, "--", ceilingsFile)
	if err != nil || listed == "" {
		return nil, ignoreMissing(err)
	}
	text, err := git("show", commit+":"+ceilingsFile)
	if err != nil {
		return nil, err
	}
	return prose.ReadCeilings(strings.NewReader(text))
}

// ignoreMissing drops the error of git for a commit that a shallow clone lacks.
func ignoreMissing(err error) error {
	if exit := new(exec.ExitError); errors.As(err, &exit) && exit.ExitCode() == gitFatal {
		return nil
	}
	return err
}

// gitFatal is the exit code of git for an unknown commit.
const gitFatal = 128

// withoutComments drops the lines that git adds for the editor.
func withoutComments(message string) string {
	message, _, _ = strings.Cut(message, "# ------------------------ >8")
	var b strings.Builder
	for line := range strings.Lines(message) {
		if !strings.HasPrefix(line, "#") {
			b.WriteString(line)
		}
	}
	return b.String()
}

func git(args ...string) (string, error) {
	out, err := exec.Command("git", args...).Output()
	if err != nil {
		return "", fmt.Errorf("git %s: %w", strings.Join(args, " "), err)
	}
	return string(out), nil
}
