package bench

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"unicode/utf8"
)

// Result is the complete result of a run of an area.
type Result struct {
	Area     string     `json:"area"`
	Command  string     `json:"command"` // the command that repeats the run
	Machine  Machine    `json:"machine"`
	Tables   []Table    `json:"tables"`
	Verdicts []Verdict  `json:"verdicts"`
	Notes    []string   `json:"notes"` // the meaning and the limits of the numbers
	Cases    []Measured `json:"cases"`
	Charts   []Chart    `json:"-"`
}

// Table is a table of cells as they are printed.
type Table struct {
	Title   string     `json:"title"`
	Columns []string   `json:"columns"`
	Rows    [][]string `json:"rows"`
}

// Verdict compares one figure with its target.
type Verdict struct {
	Claim  string `json:"claim"`
	Target string `json:"target"`
	Got    string `json:"got"`
	OK     bool   `json:"ok"`
}

// AtMost is the verdict of a figure that should not exceed its target.
func AtMost(claim string, got, target float64, unit string) Verdict {
	return Verdict{
		Claim:  claim,
		Target: strings.TrimSpace(fmt.Sprintf("<= %.4g %s", target, unit)),
		Got:    strings.TrimSpace(fmt.Sprintf("%.4g %s", got, unit)),
		// A figure of zero was not measured.
		OK: got > 0 && got <= target,
	}
}

// Failed returns the verdicts that missed their target.
func (r Result) Failed() []Verdict {
	var out []Verdict
	for _, v := range r.Verdicts {
		if !v.OK {
			out = append(out, v)
		}
	}
	return out
}

// Print writes the tables and verdicts for a terminal, which is the Markdown
// of the file: aligned columns are readable as they are.
func (r Result) Print(w io.Writer) {
	for _, t := range r.Tables {
		t.print(w)
	}
	if len(r.Verdicts) > 0 {
		v := Table{Title: "Targets", Columns: []string{"claim", "target", "measured", ""}}
		for _, x := range r.Verdicts {
			word := "met"
			if !x.OK {
				word = "**missed**"
			}
			v.Rows = append(v.Rows, []string{x.Claim, x.Target, x.Got, word})
		}
		v.print(w)
	}
}

func (t Table) print(w io.Writer) {
	width := make([]int, len(t.Columns))
	for _, row := range append([][]string{t.Columns}, t.Rows...) {
		for i, c := range row[:min(len(row), len(width))] {
			width[i] = max(width[i], utf8.RuneCountInString(c))
		}
	}
	line := func(row []string) {
		var b strings.Builder
		for i := range t.Columns {
			cell := ""
			if i < len(row) {
				cell = row[i]
			}
			b.WriteString("| " + cell + strings.Repeat(" ", width[i]-utf8.RuneCountInString(cell)) + " ")
		}
		fmt.Fprintln(w, b.String()+"|")
	}
	fmt.Fprintf(w, "\n### %s\n\n", t.Title)
	line(t.Columns)
	rule := make([]string, len(width))
	for i, n := range width {
		rule[i] = strings.Repeat("-", n)
	}
	line(rule)
	for _, row := range t.Rows {
		line(row)
	}
}

// markdown returns the whole page: subject, machine and method, then the numbers.
func (r Result) markdown(w io.Writer) {
	m := r.Machine
	commit := m.Commit
	if m.Dirty {
		commit += " with uncommitted changes"
	}
	fmt.Fprintf(w, "# Benchmark: %s\n\n", r.Area)
	fmt.Fprintf(w, "Command: `%s` at commit %s, %s.\n\n", r.Command, commit, m.Date.Format("2006-01-02 15:04 MST"))
	fmt.Fprintf(w, "Machine: %s, %d cores, %.1f GiB, %s, %s, load before %s.\n", m.CPU, m.Cores, float64(m.MemBytes)/(1<<30), m.Kernel, m.Go, m.Load)
	r.Print(w)
	if len(r.Notes) > 0 {
		fmt.Fprintf(w, "\n### What these numbers are, and are not\n\n")
		for _, n := range r.Notes {
			fmt.Fprintf(w, "- %s\n", n)
		}
	}
	if len(r.Charts) > 0 {
		fmt.Fprintf(w, "\n![%s](plot.svg)\n", r.Area)
	}
}

// Write puts table.md, result.json and plot.svg into a folder below root that
// carries the date and the commit, and returns the folder. A second run on the
// same day at the same commit replaces the first.
func (r Result) Write(root string) (string, error) {
	dir := filepath.Join(root, r.Machine.Date.Format("2006-01-02")+"-"+r.Machine.Commit)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	var page strings.Builder
	r.markdown(&page)
	if err := os.WriteFile(filepath.Join(dir, "table.md"), []byte(page.String()), 0o644); err != nil {
		return "", err
	}
	raw, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(dir, "result.json"), append(raw, '\n'), 0o644); err != nil {
		return "", err
	}
	if len(r.Charts) > 0 {
		if err := writeCharts(filepath.Join(dir, "plot.svg"), r.Charts); err != nil {
			return "", fmt.Errorf("plot: %w", err)
		}
	}
	return dir, nil
}

// FormatSpread prints a median with its ends: "0.171 (0.165-0.180)".
func FormatSpread(s Spread, scale float64, digits int) string {
	if s.N == 0 {
		return "-"
	}
	if s.N == 1 {
		return fmt.Sprintf("%.*f", digits, s.Median/scale)
	}
	return fmt.Sprintf("%.*f (%.*f-%.*f)", digits, s.Median/scale, digits, s.Min/scale, digits, s.Max/scale)
}
