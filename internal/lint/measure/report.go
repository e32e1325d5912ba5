package measure

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/penstock/penstock/internal/lint/prose"
)

// Write writes a Markdown table with a column for each tree.
func Write(w io.Writer, names []string, trees []*Tree) {
	fmt.Fprintf(w, "| measure | %s |\n|---|%s\n", strings.Join(names, " | "), strings.Repeat("---|", len(names)))
	row := func(name string, value func(*Tree) string) {
		fmt.Fprintf(w, "| %s |", name)
		for _, t := range trees {
			fmt.Fprintf(w, " %s |", value(t))
		}
		fmt.Fprintln(w)
	}
	row("Go lines without tests, files", func(t *Tree) string { return fmt.Sprintf("%d, %d", t.Lines(), len(t.Files)) })
	row("lines of tests, per line of code", func(t *Tree) string {
		return fmt.Sprintf("%d, %.2f", t.TestLines, float64(t.TestLines)/float64(max(1, t.Lines())))
	})
	row("tests", func(t *Tree) string { return fmt.Sprint(t.Tests) })
	row("comment lines, share", func(t *Tree) string {
		return fmt.Sprintf("%d, %.0f %%", t.CommentLines, 100*float64(t.CommentLines)/float64(max(1, t.Lines())))
	})
	row("lines of a file: median, p90, max", func(t *Tree) string { return quantiles(t.Files, 50, 90, 100) })
	row("functions", func(t *Tree) string { return fmt.Sprint(len(t.FuncLines)) })
	row("lines of a function: median, p90, p95, max", func(t *Tree) string { return quantiles(t.FuncLines, 50, 90, 95, 100) })
	row("complexity: median, p90, p95, max", func(t *Tree) string { return quantiles(t.Complexity, 50, 90, 95, 100) })
	row("functions with more than 6 parameters", func(t *Tree) string { return fmt.Sprint(t.ManyParams) })
	row("functions with 2 bool parameters", func(t *Tree) string { return fmt.Sprint(t.TwoBools) })
	row("fields of a struct: p95, max", func(t *Tree) string { return quantiles(t.Fields, 95, 100) })
	row("functions of the largest packages", func(t *Tree) string { return largest(t.Packages, 4) })
	row("longest functions", func(t *Tree) string { return largest(t.Longest, 4) })
	row("one-word package-level names", func(t *Tree) string { return fmt.Sprintf("%d: %s", sum(t.Globals), largest(t.Globals, 3)) })
	row("names with several meanings in a package", func(t *Tree) string { return fmt.Sprintf("%d: %s", sum(t.Ambiguous), largest(t.Ambiguous, 3)) })
	row("exported names of public packages", func(t *Tree) string { return fmt.Sprintf("%d: %s", sum(t.Exported), largest(t.Exported, 4)) })
	row("lines of Markdown above 130 characters", func(t *Tree) string { return fmt.Sprint(t.LongMDLine) })
	row("lines of prose", func(t *Tree) string { return fmt.Sprint(proseLines(t)) })
	for _, h := range prose.Habits {
		row(fmt.Sprintf("%s per 1,000 (allowed %.1f)", h.Name, h.Rate), func(t *Tree) string {
			n := 0
			for _, u := range t.Prose {
				n += u.Count(h.Name)
			}
			return fmt.Sprintf("%.1f", 1000*float64(n)/float64(max(1, proseLines(t))))
		})
	}
}

func proseLines(t *Tree) int {
	n := 0
	for _, u := range t.Prose {
		n += u.Lines
	}
	return n
}

func quantiles(values []int, percents ...int) string {
	sorted := slices.Sorted(slices.Values(values))
	out := make([]string, 0, len(percents))
	for _, p := range percents {
		v := 0
		if len(sorted) > 0 {
			v = sorted[(len(sorted)-1)*p/100]
		}
		out = append(out, fmt.Sprint(v))
	}
	return strings.Join(out, ", ")
}

// largest returns the entries with the largest values.
func largest(m map[string]int, n int) string {
	keys := slices.SortedFunc(maps.Keys(m), func(a, b string) int { return cmp.Or(cmp.Compare(m[b], m[a]), cmp.Compare(a, b)) })
	out := make([]string, 0, n)
	for _, k := range keys[:min(n, len(keys))] {
		out = append(out, fmt.Sprintf("%s %d", k, m[k]))
	}
	return strings.Join(out, ", ")
}

func sum(m map[string]int) int {
	n := 0
	for _, v := range m {
		n += v
	}
	return n
}
