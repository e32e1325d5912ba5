package testsum

import (
	"bufio"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// maxKnown is how far ahead the date of a known unsteady test may be. Within
// that time its fault is found, or the test is taken out.
const maxKnown = 14 * 24 * time.Hour

// A Known is an unsteady test whose fault an owner is looking for: until its date it does not
// fail the run.
type Known struct {
	Package string // relative to the module: "dnsplugin/cmd/coredns"
	Test    string // without subtests
	Owner   string
	Until   time.Time // the last day
	Why     string    // the state of the search for the fault
}

// ReadKnown reads lines "PACKAGE TEST OWNER YYYY-MM-DD WHY...". Empty lines and
// lines that start with # are comments.
func ReadKnown(r io.Reader) ([]Known, error) {
	var out []Known
	sc := bufio.NewScanner(r)
	for n := 1; sc.Scan(); n++ {
		line := strings.TrimSpace(sc.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		f := strings.Fields(line)
		if len(f) < 5 {
			return nil, fmt.Errorf("line %d of the unsteady tests: %q, want PACKAGE TEST OWNER YYYY-MM-DD WHY", n, line)
		}
		until, err := time.Parse(time.DateOnly, f[3])
		if err != nil {
			return nil, fmt.Errorf("line %d of the unsteady tests: %w", n, err)
		}
		k := Known{Package: f[0], Test: f[1], Owner: f[2], Until: until, Why: strings.Join(f[4:], " ")}
		if slices.ContainsFunc(out, func(o Known) bool { return o.Package == k.Package && o.Test == k.Test }) {
			return nil, fmt.Errorf("line %d of the unsteady tests: %s %s stands twice", n, k.Package, k.Test)
		}
		out = append(out, k)
	}
	return out, sc.Err()
}

// Excuse returns why an unsteady test fails the run on that day, or "" if the
// list excuses it.
func Excuse(o Outcome, known []Known, today time.Time) string {
	i := slices.IndexFunc(known, func(k Known) bool {
		return k.Test == o.Test && (o.Package == k.Package || strings.HasSuffix(o.Package, "/"+k.Package))
	})
	if i < 0 {
		return "find its fault, or list it with an owner and a date"
	}
	k := known[i]
	switch day := today.UTC().Truncate(24 * time.Hour); {
	case day.After(k.Until):
		return fmt.Sprintf("%s had time until %s to find its fault", k.Owner, k.Until.Format(time.DateOnly))
	case k.Until.Sub(day) > maxKnown:
		return fmt.Sprintf("the date %s is more than 14 days ahead", k.Until.Format(time.DateOnly))
	}
	return ""
}
