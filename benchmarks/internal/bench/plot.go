package bench

import (
	"image/color"
	"os"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// Chart is a bar chart: one bar for each contestant, whiskers from the lowest
// to the highest round.
type Chart struct {
	Title, Unit string
	Bars        []Bar
}

// Bar is one contestant of a chart.
type Bar struct {
	Label string
	Value Spread
	Ours  bool
}

// Two colours that stay apart in print and for colour-blind readers.
var (
	oursColor = color.RGBA{R: 0x1b, G: 0x6c, B: 0xa8, A: 0xff}
	peerColor = color.RGBA{R: 0xb8, G: 0xb8, B: 0xb8, A: 0xff}
)

const (
	chartWidth  = 9 * vg.Inch
	chartHeight = 3 * vg.Inch // for each chart
	barWidth    = 28          // points
)

func writeCharts(path string, charts []Chart) error {
	plots := make([][]*plot.Plot, len(charts))
	for i, c := range charts {
		p, err := c.plot()
		if err != nil {
			return err
		}
		plots[i] = []*plot.Plot{p}
	}
	canvas := vgsvg.New(chartWidth, chartHeight*vg.Length(len(charts)))
	tiles := draw.Tiles{Rows: len(charts), Cols: 1, PadY: vg.Points(12), PadX: vg.Points(6), PadTop: vg.Points(6), PadBottom: vg.Points(6), PadRight: vg.Points(12)}
	for i, row := range plot.Align(plots, tiles, draw.New(canvas)) {
		plots[i][0].Draw(row[0])
	}
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

func (c Chart) plot() (*plot.Plot, error) {
	p := plot.New()
	p.Title.Text = c.Title
	p.Y.Label.Text = c.Unit
	p.Y.Min = 0
	whiskers := &whiskers{}
	names := make([]string, len(c.Bars))
	for i, b := range c.Bars {
		names[i] = b.Label
		bar, err := plotter.NewBarChart(plotter.Values{b.Value.Median}, vg.Points(barWidth))
		if err != nil {
			return nil, err
		}
		bar.XMin = float64(i)
		bar.LineStyle.Width = 0
		bar.Color = peerColor
		if b.Ours {
			bar.Color = oursColor
		}
		p.Add(bar)
		whiskers.XYs = append(whiskers.XYs, plotter.XY{X: float64(i), Y: b.Value.Median})
		whiskers.YErrors = append(whiskers.YErrors, struct{ Low, High float64 }{
			b.Value.Median - b.Value.Min, b.Value.Max - b.Value.Median,
		})
	}
	bars, err := plotter.NewYErrorBars(whiskers)
	if err != nil {
		return nil, err
	}
	p.Add(bars)
	p.NominalX(names...)
	// Half a bar more on both sides, so that the outer labels have room.
	p.X.Min, p.X.Max = -0.75, float64(len(names))-0.25
	return p, nil
}

// whiskers are the values with their ends in gonum's form.
type whiskers struct {
	plotter.XYs
	plotter.YErrors
}
