package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/penstock/penstock/benchmarks/internal/bench"
)

// Targets of the engine; docs/benchmarks.md explains them.
const (
	maxOverPlain = 1.25     // CPU for a byte, relative to the plain reader
	maxOverGet   = 0.25     // relative to transfermanager.GetObject
	maxOverOld   = 1.0      // relative to manager.Downloader
	memoryRoom   = 32 * mib // above the budget, for the runtime, the connections and the code
	maxSlower    = 1.5      // wall time with all faults, relative to none
	maxAgain     = 0.05     // share of the bytes requested twice
)

// reportThroughput adds the table, the verdicts and the chart of a case.
func reportThroughput(res *bench.Result, o options, m bench.Measured, title string) {
	t := bench.Table{
		Title:   title,
		Columns: []string{"client", "CPU-s/GB", "GB/s", "max RSS MiB", "requests", "outcome"},
	}
	chart := bench.Chart{Title: title + ": client CPU, lower is better", Unit: "CPU-s per GB"}
	for i, name := range m.Contestants {
		s := m.Samples[i]
		cpu := bench.SpreadOf(s, bench.CPUPerGB)
		t.Rows = append(t.Rows, []string{
			name,
			bench.FormatSpread(cpu, 1, 3),
			bench.FormatSpread(bench.SpreadOf(s, bench.Rate), 1e9, 2),
			bench.FormatSpread(bench.SpreadOf(s, bench.MaxRSS), mib, 0),
			fmt.Sprintf("%.0f", bench.SpreadOf(s, bench.Requests).Median),
			bench.Outcomes(s),
		})
		chart.Bars = append(chart.Bars, bench.Bar{Label: shortName(name), Value: cpu, Ours: m.Ours[i]})
	}
	res.Tables = append(res.Tables, t)
	res.Charts = append(res.Charts, chart)
	res.Cases = append(res.Cases, m)

	cpu := func(name string) float64 { return bench.SpreadOf(m.Of(name), bench.CPUPerGB).Median }
	ours := cpu(oursName)
	ratio := func(claim, peer string, target float64) {
		got := 0.0
		if p := cpu(peer); p > 0 {
			got = ours / p
		}
		res.Verdicts = append(res.Verdicts, bench.AtMost(m.Name+": "+claim, got, target, "x"))
	}
	ratio("CPU against plain net/http", plainName, maxOverPlain)
	ratio("CPU against transfermanager.GetObject", getName, maxOverGet)
	ratio("CPU against manager.Downloader", managerName, maxOverOld)
	peak := bench.SpreadOf(m.Of(oursName), bench.MaxRSS).Max
	res.Verdicts = append(res.Verdicts, bench.AtMost(m.Name+": memory, budget + 32 MiB", peak/mib, float64(o.budget+memoryRoom)/mib, "MiB"))
}

// reportFaults adds the fault table: one row for each fault, one column for
// each client.
func reportFaults(res *bench.Result, o options, all []bench.Measured) {
	if len(all) == 0 {
		return
	}
	clean := all[0]
	t := bench.Table{
		Title:   fmt.Sprintf("One object of %d MiB under faults: seconds (times the clean time), share of bytes sent again, outcome", o.faultSize/mib),
		Columns: append([]string{"fault"}, clean.Contestants...),
	}
	for _, m := range all {
		row := []string{m.Name}
		for i, name := range m.Contestants {
			row = append(row, faultCell(m.Samples[i], clean.Of(name), o.faultSize))
		}
		t.Rows = append(t.Rows, row)
		res.Cases = append(res.Cases, m)
		faultVerdicts(res, o, m, clean)
	}
	res.Tables = append(res.Tables, t)
}

func faultCell(s, clean []bench.Sample, size int64) string {
	wall := bench.SpreadOf(s, bench.Wall)
	cell := "-"
	if base := bench.SpreadOf(clean, bench.Wall).Median; wall.N > 0 && base > 0 {
		cell = fmt.Sprintf("%.2f (%.1fx)", wall.Median, wall.Median/base)
	}
	if a := again(s, size); a >= 0.0005 { // less would be printed as 0.0
		cell += fmt.Sprintf(", %.1f %%", 100*a)
	}
	return cell + ", " + bench.Outcomes(s)
}

// again is the median share of the bytes that the origin sent more than once.
func again(s []bench.Sample, size int64) float64 {
	return bench.SpreadOf(s, func(s bench.Sample) (float64, bool) {
		return float64(s.BytesTwo) / float64(size), true
	}).Median
}

func faultVerdicts(res *bench.Result, o options, m, clean bench.Measured) {
	ours := m.Of(oursName)
	switch m.Name {
	case allCase:
		slower, base := bench.SpreadOf(ours, bench.Wall), bench.SpreadOf(clean.Of(oursName), bench.Wall)
		got := 0.0
		if slower.N == len(ours) && base.Median > 0 { // a failed run meets no target
			got = slower.Median / base.Median
		}
		res.Verdicts = append(res.Verdicts,
			bench.AtMost("all faults together: wall time against clean", got, maxSlower, "x"),
			bench.Verdict{
				Claim: "all faults together: bytes sent again", Target: fmt.Sprintf("<= %.0f %%", 100*maxAgain),
				Got: fmt.Sprintf("%.2f %%", 100*again(ours, o.faultSize)), OK: again(ours, o.faultSize) <= maxAgain,
			})
	case replacedCase:
		all := len(ours) > 0 && !slices.ContainsFunc(ours, func(s bench.Sample) bool { return s.Outcome != bench.OutcomeTyped })
		res.Verdicts = append(res.Verdicts, bench.Verdict{
			Claim: "object replaced: the typed error, never a mixed byte", Target: "typed", Got: bench.Outcomes(ours), OK: all,
		})
	}
}

// shortName fits below a bar.
func shortName(name string) string {
	return strings.NewReplacer("transfermanager.", "tm.", "manager, pooled buffers", "manager pooled").Replace(name)
}
