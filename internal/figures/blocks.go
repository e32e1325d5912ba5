package figures

import (
	"fmt"
	"path"
	"strings"
	"unicode/utf8"
)

// areas are the areas that have recorded results.
var areas = []string{"engine", "image", "inflate", "dns", "dns/replicas"}

// block returns the text of a block. up leads from the document to the root.
func block(root, name, up string) (string, error) {
	if name == "headline" {
		return headline(root, up)
	}
	a, err := load(root, name)
	if err != nil {
		return "", err
	}
	return a.markdown(up), nil
}

// headline is the table of the README: one line for each figure.
func headline(root, up string) (string, error) {
	all := map[string]*area{}
	for _, name := range areas {
		a, err := load(root, name)
		if err != nil {
			return "", err
		}
		all[name] = &a
	}
	var bad error
	keep := func(s string, err error) string {
		if bad == nil {
			bad = err
		}
		return s
	}
	target := func(area, claim string) string { return keep(all[area].verdict(claim)) }
	dns := func(title, row string) string { return keep(all["dns"].cell(title, row, "CPU us/answer")) }
	t := table{
		Columns: []string{"what", "measured", "result"},
		Rows: [][]string{
			{
				"pull an image of six layers into a directory, against the fastest containerd set-up",
				target("image", "memory: penstock-pull: wall against the best containerd") + " its time, " +
					target("image", "memory: penstock-pull: CPU against the best containerd") + " its CPU",
				all["image"].newest("memory: penstock-pull: wall against the best containerd").link(up),
			},
			{
				"gunzip a layer on one core, against klauspost/compress and igzip",
				target("inflate", "one member: CPU on one core against klauspost/compress") + " and " +
					target("inflate", "one member: CPU on one core against igzip") + " their CPU",
				all["inflate"].results[0].link(up),
			},
			{
				"read one large object from S3, against the AWS SDK's `transfermanager.GetObject`",
				target("engine", "one object: CPU against transfermanager.GetObject") + " its CPU",
				all["engine"].results[0].link(up),
			},
			{
				"a cached DNS answer over UDP, against CoreDNS with its cache, and against an echo (kernel only)",
				dns("cached answers", "CoreDNS + penstock") + " us of CPU, " +
					dns("cached answers", "CoreDNS + its cache") + " us, " + dns("cached answers", "kernel only") + " us",
				all["dns"].results[0].link(up),
			},
			{
				"the same over TCP, 32 questions under way on each connection",
				dns("cached answers over TCP", "CoreDNS + penstock, pipelined") + " us, CoreDNS " +
					dns("cached answers over TCP", "CoreDNS + its cache, pipelined") + " us",
				all["dns"].results[0].link(up),
			},
		},
	}
	if bad != nil {
		return "", bad
	}
	return t.markdown(), nil
}

// newest returns the result that a claim's figure comes from.
func (a *area) newest(claim string) *result {
	for _, s := range a.verdicts {
		if s.value.Claim == claim {
			return s.from
		}
	}
	return &a.results[0]
}

// link is the date and commit of a result, linked to its page.
func (r *result) link(up string) string {
	return fmt.Sprintf("[%s, %s](%s)", r.Machine.Date.Format("2006-01-02"), r.Machine.Commit, path.Join(up, r.dir, "table.md"))
}

// markdown is all that an area's results say: the runs, the plot of the newest
// one, the tables, and how the targets fared.
func (a *area) markdown(up string) string {
	var b strings.Builder
	newest := &a.results[0]
	for i := range a.results {
		r := &a.results[i]
		fmt.Fprintf(&b, "- %s:\n  `%s`, %s, %d cores\n", r.link(up), r.Command, r.Machine.CPU, r.Machine.Cores)
	}
	fmt.Fprintf(&b, "\n![Plot of %s](%s)\n", newest.Area, path.Join(up, newest.dir, "plot.svg"))
	for _, s := range a.tables {
		fmt.Fprintf(&b, "\n**%s**", s.value.Title)
		if len(a.results) > 1 {
			fmt.Fprintf(&b, " (%s)", s.from.Machine.Commit)
		}
		fmt.Fprintf(&b, "\n\n%s", s.value.markdown())
	}
	missed := table{Columns: []string{"missed target", "wanted", "measured"}}
	for _, s := range a.verdicts {
		if !s.value.OK {
			missed.Rows = append(missed.Rows, []string{s.value.Claim, s.value.Target, s.value.Got})
		}
	}
	fmt.Fprintf(&b, "\nTargets: %d of %d met", len(a.verdicts)-len(missed.Rows), len(a.verdicts))
	if len(missed.Rows) == 0 {
		b.WriteString(".\n")
	} else {
		fmt.Fprintf(&b, ".\n\n%s", missed.markdown())
	}
	return b.String()
}

// markdown writes the table with aligned columns.
func (t table) markdown() string {
	width := make([]int, len(t.Columns))
	for _, row := range append([][]string{t.Columns}, t.Rows...) {
		for i, c := range row[:min(len(row), len(width))] {
			width[i] = max(width[i], utf8.RuneCountInString(c))
		}
	}
	var b strings.Builder
	line := func(row []string) {
		for i := range t.Columns {
			cell := ""
			if i < len(row) {
				cell = row[i]
			}
			b.WriteString("| " + cell + strings.Repeat(" ", width[i]-utf8.RuneCountInString(cell)) + " ")
		}
		b.WriteString("|\n")
	}
	line(t.Columns)
	rule := make([]string, len(width))
	for i, n := range width {
		rule[i] = strings.Repeat("-", n)
	}
	line(rule)
	for _, row := range t.Rows {
		line(row)
	}
	return b.String()
}
