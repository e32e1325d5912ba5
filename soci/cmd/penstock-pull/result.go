package main

import (
	"fmt"
	"io"
	"time"

	"github.com/penstock/penstock/internal/cli"
	"github.com/penstock/penstock/internal/printable"
	"github.com/penstock/penstock/soci"
)

// printResult prints the result for people.
func printResult(w io.Writer, r *soci.Result) error {
	t := r.Timing
	wall := max(t.Wall, time.Millisecond).Seconds()
	_, err := fmt.Fprintf(w, "%s (%s)\n%s\n%d layers, %d files, %s from %s compressed, in %.2f s: %.1f MB/s\n",
		r.Reference, r.Platform, r.Manifest, len(r.Layers), r.Files, cli.Megabytes(r.FileBytes), cli.Megabytes(r.CompressedBytes),
		wall, float64(r.FileBytes)/1e6/wall)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "waiting for the network %.2f s, inflate %.2f s, hash %.2f s, write %.2f s (sums over layers and writers)\n",
		t.Network.Seconds(), t.Inflate.Seconds(), t.Hash.Seconds(), t.Write.Seconds())
	if l := r.Limit; err == nil && l.Phase != "" {
		_, err = fmt.Fprintf(w, "limit: %s, %.0f %% of the time; next %s, %.0f %%\n", l.Phase, 100*l.Share, l.Next, 100*l.NextShare)
	}
	for _, warning := range r.Warnings {
		if err == nil {
			_, err = fmt.Fprintf(w, "warning: %s\n", printable.Line(warning, cli.MaxLine))
		}
	}
	return err
}
