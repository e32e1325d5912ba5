package main

import (
	"fmt"

	"github.com/penstock/penstock/benchmarks/internal/bench"
)

// The targets.
const (
	maxWall    = 0.5       // of the best containerd
	maxCPU     = 0.65      // of the best containerd
	maxOfSOCI  = 1.0       // wall and CPU of SOCI with igzip
	maxWritten = 1.02      // of the uncompressed image
	maxSent    = 1.005     // of the compressed image: 1.00, rounded
	maxRSS     = 64 + 256  // MiB: 64 and the default of --memory
	mib        = 1 << 20   // bytes
	megabyte   = 1_000_000 // bytes, as disks count
)

var notes = []string{
	"Wall: from the start of the client (or of `ctr images pull` with running daemons) until the file system has written everything (syncfs, for all of them).",
	"CPU: user and system time of the client, its daemons and their children, during the pull. The registry is another process on the same cores.",
	"RSS: VmHWM of the processes, summed. Memory of a tmpfs is in no process.",
	"Written: on a disk, write_bytes less cancelled_write_bytes of /proc/PID/io. In memory nothing is sent to storage, and the peak stands for it.",
	"Peak: the most that the run took of its file system, by statfs every 10 ms. It is compared with the image: the bytes of its archives, or the blocks of 4 KiB of its files where those are more.",
	"Received: what the registry sent of layers, over their size.",
	"penstock-pull, crane and the plain client leave one tree, which is compared with the image file by file; a difference counts as corrupt. The others check digests and leave layers.",
	"containerd has 10 downloads, 6 unpacks and ranges of 8 MiB. SOCI has the configuration of its page on the parallel mode, with igzip in place of unpigz and without layers kept. penstock-snapshotter has its defaults and flushes the disk before it commits.",
	"GET + gunzip + untar is the floor of simplicity: one layer after the other, compress/gzip, archive/tar, no digest.",
	"Contestants take turns within a round, and another one begins each time.",
}

// report makes tables, charts and verdicts of the measurements.
func report(cases []finished, machine bench.Machine) bench.Result {
	res := bench.Result{Area: "image", Command: "make bench AREA=image", Machine: machine, Notes: notes}
	for _, f := range cases {
		res.Tables = append(res.Tables, f.table())
		res.Charts = append(res.Charts, f.chart("wall time", "seconds", bench.Wall), f.chart("CPU", "CPU-seconds", cpu))
		res.Cases = append(res.Cases, f.Measured)
		for _, ours := range []string{pullName, snapName} {
			if f.Measured.Of(ours) != nil {
				res.Verdicts = append(res.Verdicts, f.verdicts(ours)...)
			}
		}
	}
	return res
}

func cpu(s bench.Sample) (float64, bool) { return s.CPU.Seconds(), s.Outcome == bench.OutcomeOK }

func extra(name string) func(bench.Sample) (float64, bool) {
	return func(s bench.Sample) (float64, bool) { return s.Extra[name], s.Outcome == bench.OutcomeOK }
}

func sent(s bench.Sample) (float64, bool) { return float64(s.BytesSent), true }

func (f finished) table() bench.Table {
	im := f.Image
	t := bench.Table{
		Title: fmt.Sprintf("%s: %d layers, %d MB compressed, %d MB of tar, %d MB on disk, %d entries",
			f.Title, im.Layers, im.Compressed/megabyte, im.Tar/megabyte, im.Full/megabyte, im.Entries),
		Columns: []string{"client", "wall s", "CPU-s", "RSS MiB", "peak / image", "received / image", "requests", "outcome"},
	}
	if f.onDisk() {
		t.Columns = append(t.Columns[:4:4], append([]string{"written / image"}, t.Columns[4:]...)...)
	}
	for i, name := range f.Measured.Contestants {
		s := f.Measured.Samples[i]
		row := []string{
			name, bench.FormatSpread(bench.SpreadOf(s, bench.Wall), 1, 2), bench.FormatSpread(bench.SpreadOf(s, cpu), 1, 2),
			bench.FormatSpread(bench.SpreadOf(s, bench.MaxRSS), mib, 0),
		}
		if f.onDisk() {
			row = append(row, fmt.Sprintf("%.3f", bench.SpreadOf(s, extra(extraWritten)).Median/float64(im.Full)))
		}
		t.Rows = append(t.Rows, append(row,
			fmt.Sprintf("%.3f", bench.SpreadOf(s, extra(extraPeak)).Median/float64(im.Full)),
			fmt.Sprintf("%.3f", bench.SpreadOf(s, sent).Median/float64(im.Compressed)),
			fmt.Sprintf("%.0f", bench.SpreadOf(s, bench.Requests).Median), bench.Outcomes(s)))
	}
	return t
}

func (f finished) chart(what, unit string, of func(bench.Sample) (float64, bool)) bench.Chart {
	c := bench.Chart{Title: f.Title + ", " + what + ": lower is better", Unit: unit}
	for i, name := range f.Measured.Contestants {
		c.Bars = append(c.Bars, bench.Bar{Label: short[name], Value: bench.SpreadOf(f.Measured.Samples[i], of), Ours: f.Measured.Ours[i]})
	}
	return c
}

// short are names that fit below a bar.
var short = map[string]string{
	pullName: "penstock-pull", snapName: "ctrd+penstock", sociName: "ctrd+SOCI",
	ctrdIgzip: "ctrd igzip", ctrdGo: "ctrd Go", craneName: "crane", plainName: "plain",
}

// verdicts compare one of ours with the peers that ran.
func (f finished) verdicts(ours string) (out []bench.Verdict) {
	samples := f.Measured.Of(ours)
	median := func(of func(bench.Sample) (float64, bool)) float64 { return bench.SpreadOf(samples, of).Median }
	claim := func(what string) string { return f.Case + ": " + ours + ": " + what }
	against := func(what string, of func(bench.Sample) (float64, bool), most float64, who string, peers ...string) {
		best := 0.0
		for _, name := range peers {
			if v := bench.SpreadOf(f.Measured.Of(name), of).Median; v > 0 && (best == 0 || v < best) {
				best = v
			}
		}
		if best > 0 {
			out = append(out, bench.AtMost(claim(what+" against "+who), median(of)/best, most, "x"))
		}
	}
	against("wall", bench.Wall, maxWall, "the best containerd", ctrdGo, ctrdIgzip)
	against("CPU", cpu, maxCPU, "the best containerd", ctrdGo, ctrdIgzip)
	against("wall", bench.Wall, maxOfSOCI, "SOCI with igzip", sociName)
	against("CPU", cpu, maxOfSOCI, "SOCI with igzip", sociName)
	written, how := extra(extraPeak), "peak of the file system against the image"
	if f.onDisk() {
		written, how = extra(extraWritten), "bytes written against the image"
	}
	rss := median(bench.MaxRSS) / mib
	return append(out,
		bench.AtMost(claim(how), median(written)/float64(f.Image.Full), maxWritten, "x"),
		bench.AtMost(claim("each compressed byte once"), median(sent)/float64(f.Image.Compressed), maxSent, "x"),
		bench.AtMost(claim("RSS, 64 MiB and the memory budget"), rss, maxRSS, "MiB"))
}
