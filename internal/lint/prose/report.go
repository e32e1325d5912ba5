package prose

import (
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
)

var hunk = regexp.MustCompile(`^@@ -\S+ \+(\d+)(?:,(\d+))? @@`)

// Changed returns the findings on the lines that a diff adds. The diff is the
// output of git diff -U0, whose hunks hold changed lines only.
func Changed(units []*Unit, diff string) []Finding {
	type place struct {
		file string
		line int
	}
	added := map[place]bool{}
	file := ""
	for line := range strings.Lines(diff) {
		if name, ok := strings.CutPrefix(line, "+++ b/"); ok {
			file = strings.TrimSpace(name)
		}
		m := hunk.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		from, _ := strconv.Atoi(m[1])
		n := 1
		if m[2] != "" {
			n, _ = strconv.Atoi(m[2])
		}
		for i := range n {
			added[place{file, from + i}] = true
		}
	}
	var out []Finding
	for _, u := range units {
		for _, f := range u.Findings {
			if added[place{f.File, f.Line}] {
				out = append(out, f)
			}
		}
	}
	return out
}

// WriteFindings writes one line for each finding.
func WriteFindings(w io.Writer, findings []Finding) {
	for _, f := range findings {
		fmt.Fprintf(w, "  %s:%d: %s: %s\n", f.File, f.Line, f.Habit, f.Text)
	}
}

// WriteRates writes how often each habit occurs in 1,000 lines of all units,
// with the rate in the units of another tree unless there are none, and the
// lines and findings of each folder.
func WriteRates(w io.Writer, units, others []*Unit) {
	ours, theirs := total(units), total(others)
	fmt.Fprintf(w, "%-16s %8s %8s", "habit", "count", "/1,000")
	if others != nil {
		fmt.Fprintf(w, " %10s", "against")
	}
	fmt.Fprintf(w, " %8s\n", "allowed")
	for _, h := range Habits {
		fmt.Fprintf(w, "%-16s %8d %8.1f", h.Name, ours.Count(h.Name), ours.rate(h.Name))
		if others != nil {
			fmt.Fprintf(w, " %10.1f", theirs.rate(h.Name))
		}
		fmt.Fprintf(w, " %8.1f\n", h.Rate)
	}
	fmt.Fprintf(w, "lines of prose %d\n", ours.Lines)
	if len(units) < 2 {
		return
	}
	fmt.Fprintf(w, "\n%-44s %6s %6s\n", "folder", "lines", "found")
	for _, u := range units {
		if len(u.Findings) > 0 {
			fmt.Fprintf(w, "%-44s %6d %6d\n", u.Dir, u.Lines, len(u.Findings))
		}
	}
}

func total(units []*Unit) *Unit {
	var t Unit
	for _, u := range units {
		t.Lines += u.Lines
		t.Findings = append(t.Findings, u.Findings...)
	}
	return &t
}

// rate returns the occurrences of a habit in 1,000 lines.
func (u *Unit) rate(habit string) float64 {
	return 1000 * float64(u.Count(habit)) / float64(max(1, u.Lines))
}
