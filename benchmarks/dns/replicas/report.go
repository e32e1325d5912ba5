package main

import (
	"fmt"
	"image/color"
	"os"
	"slices"
	"strconv"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"

	"github.com/penstock/penstock/benchmarks/internal/bench"
)

const plotFile = "plot.svg"

// The target: at a million queries per second and a TTL of 30 s, a few large
// replicas ask the source so many times less than 6,250 small ones.
const (
	few, many  = 4, 6250
	timesLess  = 60.0
	targetRate = 1_000_000
	targetTTL  = 30 // seconds
)

func report(o options, runs []run) bench.Result {
	res := bench.Result{
		Area: "dns/replicas", Command: fmt.Sprintf("go run ./benchmarks/dns/replicas -services %d -queries %d -seed %d", o.services, o.queries, o.seed),
		Notes: []string{
			"Simulated time: counted, not timed. The store is the plugin's, with its default memory, one for denials and one for successes in each replica.",
			"The trace is played over and over, query i at i divided by the rate; a seeded hash decides which replica gets it. Counting starts after one TTL.",
			"Theory is the sum of λ/(1+λT) over names and replicas, for arrivals at random. A trace that comes again is a little more regular than that.",
			"Evicted are all entries that a store let go to make room, expired ones included; where there are any, another run differs by a little.",
			"Stale answers, prefetch, and misses that come while one is under way are not in these figures.",
			"The plot is " + plotFile + " in the folder of this page.",
		},
	}
	for _, r := range runs {
		first := r.results[0]
		t := bench.Table{
			Title: fmt.Sprintf("%s; %s names and types, %.1f %% of the answers denials", r.setting, thousands(len(r.weights)), 100*float64(first.Denials)/float64(first.Queries)),
			Columns: []string{
				"replicas", "upstream queries/s", "by theory", "of all queries", "against " + thousands(first.Replicas), "entries in a replica", "evicted",
			},
		}
		for i, x := range r.results {
			t.Rows = append(t.Rows, []string{
				thousands(x.Replicas),
				thousands(int(x.upstream() + 0.5)),
				thousands(int(r.expected[i] + 0.5)),
				fmt.Sprintf("%.2f %%", 100*float64(x.Misses)/float64(x.Queries)),
				fmt.Sprintf("%.1f x", x.upstream()/first.upstream()),
				thousands(int(x.Entries) / x.Replicas),
				thousands(int(x.Evicted)),
			})
		}
		res.Tables = append(res.Tables, t)
		res.Verdicts = append(res.Verdicts, verdicts(r)...)
	}
	return res
}

func verdicts(r run) []bench.Verdict {
	at := func(n int) int {
		return slices.IndexFunc(r.results, func(x result) bool { return x.Replicas == n })
	}
	if r.setting.rate != targetRate || r.setting.ttl != targetTTL || at(few) < 0 || at(many) < 0 {
		return nil
	}
	got := r.results[at(many)].upstream() / r.results[at(few)].upstream()
	return []bench.Verdict{{
		Claim:  fmt.Sprintf("upstream queries of %s replicas against %d, %s", thousands(many), few, r.setting),
		Target: fmt.Sprintf(">= %.0f x", timesLess), Got: fmt.Sprintf("%.1f x", got), OK: got >= timesLess,
	}}
}

// thousands prints n with a comma before every three digits.
func thousands(n int) string {
	s := strconv.Itoa(n)
	for at := len(s) - 3; at > 0; at -= 3 {
		s = s[:at] + "," + s[at:]
	}
	return s
}

// colours of the settings: they stay apart in print and for colour-blind readers.
var colours = []color.RGBA{
	{R: 0x8c, G: 0x8c, B: 0x8c, A: 0xff},
	{R: 0xd5, G: 0x7a, B: 0x00, A: 0xff},
	{R: 0x1b, G: 0x6c, B: 0xa8, A: 0xff},
}

const (
	plotWidth  = 9 * vg.Inch
	plotHeight = 5 * vg.Inch
)

// writePlot draws upstream queries over replicas, both by powers of ten, with
// counts as points and theory as lines.
func writePlot(path string, runs []run) error {
	p := plot.New()
	p.Title.Text = "Questions to the source, by number of caches (points: counted; lines: theory)"
	p.X.Label.Text, p.Y.Label.Text = "replicas", "upstream queries per second"
	p.X.Scale, p.Y.Scale = plot.LogScale{}, plot.LogScale{}
	p.X.Tick.Marker, p.Y.Tick.Marker = plot.ConstantTicks(ticks(runs[0])), plot.LogTicks{Prec: -1}
	p.Legend.Top, p.Legend.Left = true, true
	p.Add(plotter.NewGrid())
	for i, r := range runs {
		counted, theory := make(plotter.XYs, len(r.results)), make(plotter.XYs, len(r.results))
		for k, x := range r.results {
			counted[k] = plotter.XY{X: float64(x.Replicas), Y: x.upstream()}
			theory[k] = plotter.XY{X: float64(x.Replicas), Y: r.expected[k]}
		}
		line, err := plotter.NewLine(theory)
		if err != nil {
			return err
		}
		points, err := plotter.NewScatter(counted)
		if err != nil {
			return err
		}
		line.Color, points.Color = colours[i%len(colours)], colours[i%len(colours)]
		points.Shape, points.Radius = draw.CircleGlyph{}, vg.Points(4)
		p.Add(line, points)
		p.Legend.Add(r.setting.String(), line, points)
	}
	p.X.Max *= 1.5 // room for half of the last label
	canvas := vgsvg.New(plotWidth, plotHeight)
	p.Draw(draw.New(canvas))
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	if _, err := canvas.WriteTo(f); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

// ticks marks the numbers of replicas that were simulated.
func ticks(r run) []plot.Tick {
	var out []plot.Tick
	for _, x := range r.results {
		out = append(out, plot.Tick{Value: float64(x.Replicas), Label: thousands(x.Replicas)})
	}
	return out
}
