package main

import (
	"bytes"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/penstock/penstock/internal/cli"
)

// TestImageProgress checks that plain lines have the total, each unfinished layer,
// the rate and the time left.
func TestImageProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		m := newImageProgress(cli.NewMeter(&out, "penstock-pull", cli.ProgressPlain))
		m.Start("r.example/app:1", []int64{40e6, 60e6, 0})
		m.Done(2) // an empty layer
		m.Advance(1, 15e6, 30e6)
		m.Advance(0, 10e6, 20e6)
		time.Sleep(cli.LineEvery)
		m.Advance(1, 15e6, 30e6)
		m.Advance(0, 30e6, 60e6) // too soon for another line
		m.Done(0)
		time.Sleep(cli.LineEvery)
		m.Advance(1, -30e6, -60e6) // wrong bytes: the layer restarts
		time.Sleep(cli.LineEvery)
		m.Advance(-1, 1, 0)
		m.meter.End()
		want := []string{
			"penstock-pull: r.example/app:1: 3 layers, 100.0 MB",
			"penstock-pull: 40.0 MB of 100.0 MB, 1 of 3 layers, 8.0 MB/s, 8s left; layer 1 at 25 %; layer 2 at 50 %",
			"penstock-pull: 40.0 MB of 100.0 MB, 2 of 3 layers, 4.0 MB/s, 15s left",
			"penstock-pull: 40.0 MB of 100.0 MB, 2 of 3 layers, 2.7 MB/s, 22s left",
			"",
		}
		if got := out.String(); got != strings.Join(want, "\n") {
			t.Errorf("%s", got)
		}
	})
}
