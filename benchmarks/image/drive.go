package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"

	"github.com/penstock/penstock/benchmarks/internal/bench"
	"github.com/penstock/penstock/internal/testorigin"
)

// The contestants.
const (
	oursName  = "penstock"
	plainName = "GET + gunzip + untar"
	craneName = "crane + tar"
	ctrdGo    = "containerd, Go gunzip"
	ctrdIgzip = "containerd, igzip"
)

// crane is the peer, at the version of the library in go.mod.
const crane = "github.com/google/go-containerregistry/cmd/crane@v0.22.1"

// maxOverPlain: a pull in parallel takes no longer than a sequential one, even
// where the registry is as near as it can be. Deeper targets belong to deeper work.
const maxOverPlain = 1.0

// maxCPU and maxWall are against the better of the two containerds, near the registry.
const (
	maxCPU  = 0.65
	maxWall = 0.5
)

var notes = []string{
	"Wall and CPU are the client's, from its start to the whole tree in a directory in memory. The registry is another process on the same cores.",
	"GET + gunzip + untar is the floor of simplicity: it verifies no digest and knows only plain files, folders and symlinks.",
	"Every run's tree is compared with the source, file by file; a difference counts as corrupt.",
	"containerd has an empty root in memory, 10 downloads, 6 unpacks, 8 MiB ranges; its tree is not compared, for it checks digests itself. It needs root; igzip is Debian's isal.",
	"The second case caps what one connection gets, as object stores and registries do; parallel ranges are for that.",
}

func drive(ctx context.Context, o options) (err error) {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	res := bench.Result{Area: "image", Command: "make bench AREA=image", Machine: bench.ThisMachine(), Notes: notes}
	dir, err := os.MkdirTemp(o.data, "penstock-image-")
	if err != nil {
		return fmt.Errorf("%w: give a folder in memory with -data", err)
	}
	defer os.RemoveAll(dir)
	layers := parts
	if o.quick {
		layers = [][]string{{"src/net"}, {"api", "lib"}}
	}
	fmt.Println("packing the Go tree")
	img, err := pack(ctx, runtime.GOROOT(), dir, layers)
	if err != nil {
		return err
	}
	peer, err := bench.GoInstall(ctx, dir, crane)
	if err != nil {
		fmt.Println("without crane:", err)
	}
	ctrd := ""
	if os.Geteuid() != 0 || o.quick {
		fmt.Println("without containerd: it needs root, and time to install")
	} else if ctrd, err = containerds(ctx, o.peers, dir); err != nil {
		fmt.Println("without containerd:", err)
	} else if _, err := bench.Debian(ctx, "igzip", "isal"); err != nil {
		fmt.Println("containerd finds no igzip:", err)
	}
	for _, c := range []struct {
		name string
		rate int64
	}{{"near registry", 0}, {fmt.Sprintf("%d MiB/s for a connection", o.connRate>>20), o.connRate}} {
		m, err := measure(ctx, o, c.name, c.rate, exe, peers{peer, ctrd}, dir, img)
		if err != nil {
			return err
		}
		report(&res, m, img)
	}
	res.Print(os.Stdout)
	if o.out == "" {
		fmt.Println("\nquick run: nothing is written, and the figures mean nothing")
		return nil
	}
	at, err := res.Write(o.out)
	if err != nil {
		return err
	}
	fmt.Printf("\nwritten: %s/{table.md,result.json,plot.svg}; %d of %d targets missed\n", at, len(res.Failed()), len(res.Verdicts))
	return nil
}

// peers are where the peers are; "" for one that is not there.
type peers struct{ crane, containerd string }

// measure runs one case against an origin of its own.
func measure(ctx context.Context, o options, name string, rate int64, exe string, peer peers, dir string, img *image) (m bench.Measured, err error) {
	origin, err := testorigin.Start(testorigin.Options{ConnRate: rate})
	if err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, origin.Close()) }()
	if err := img.push(origin); err != nil {
		return m, err
	}
	target := filepath.Join(dir, "tree")
	ref := origin.Host() + "/" + repo + ":" + tag
	contestants := []bench.Contestant{
		{Name: oursName, Ours: true, Argv: []string{exe, "ours", "-registry", origin.Host(), "-dir", target}},
		{Name: plainName, Argv: []string{exe, "plain", "-registry", origin.Host(), "-dir", target}},
	}
	if peer.containerd != "" {
		argv := []string{exe, "containerd", "-bin", peer.containerd, "-registry", origin.Host(), "-dir", target}
		contestants = append(contestants,
			bench.Contestant{Name: ctrdGo, Argv: argv, Env: []string{"CONTAINERD_DISABLE_IGZIP=1", "CONTAINERD_DISABLE_PIGZ=1"}},
			bench.Contestant{Name: ctrdIgzip, Argv: argv})
	}
	if peer.crane != "" {
		contestants = append(contestants, bench.Contestant{Name: craneName, Argv: []string{
			"sh", "-c", `mkdir "$3" && "$1" export --insecure "$2" - | tar -xf - -C "$3"`, "sh", peer.crane, ref, target,
		}})
	}
	return bench.Measure(ctx, bench.Case{
		Name: name, Contestants: contestants, Rounds: o.rounds, Warmup: 1,
		Before: func(context.Context, bench.Contestant) error {
			origin.Reset()
			return os.RemoveAll(target)
		},
		After: func(_ context.Context, c bench.Contestant, s *bench.Sample) error {
			if s.Outcome == bench.OutcomeOK {
				s.Bytes = img.compressed()
				if d := img.compare(target); d != "" && c.Name != ctrdGo && c.Name != ctrdIgzip {
					s.Outcome, s.Error = bench.OutcomeCorrupt, d
				}
			}
			for _, c := range origin.Counters() {
				s.Requests += c.Requests
				s.BytesSent += c.Bytes
			}
			return nil
		},
	}, os.Stdout)
}

func report(res *bench.Result, m bench.Measured, img *image) {
	t := bench.Table{
		Title: fmt.Sprintf("%s: %d layers, %d MiB compressed, %d MiB of tar, %d entries",
			m.Name, len(img.layers), img.compressed()>>20, img.tarBytes>>20, len(img.paths)),
		Columns: []string{"client", "seconds", "CPU seconds", "max RSS MiB", "requests", "received / image", "outcome"},
	}
	chart := bench.Chart{Title: "Pull and unpack, " + m.Name + ": lower is better", Unit: "seconds"}
	for i, name := range m.Contestants {
		s := m.Samples[i]
		wall := bench.SpreadOf(s, bench.Wall)
		cpu := bench.SpreadOf(s, func(s bench.Sample) (float64, bool) { return s.CPU.Seconds(), s.Outcome == bench.OutcomeOK })
		sent := bench.SpreadOf(s, func(s bench.Sample) (float64, bool) { return float64(s.BytesSent) / float64(img.compressed()), true })
		t.Rows = append(t.Rows, []string{
			name, bench.FormatSpread(wall, 1, 2), bench.FormatSpread(cpu, 1, 2),
			bench.FormatSpread(bench.SpreadOf(s, bench.MaxRSS), 1<<20, 0),
			fmt.Sprintf("%.0f", bench.SpreadOf(s, bench.Requests).Median),
			bench.FormatSpread(sent, 1, 3), bench.Outcomes(s),
		})
		chart.Bars = append(chart.Bars, bench.Bar{Label: name, Value: wall, Ours: m.Ours[i]})
	}
	res.Tables = append(res.Tables, t)
	res.Charts = append(res.Charts, chart)
	res.Cases = append(res.Cases, m)
	got := 0.0
	ours, plain := m.Of(oursName), bench.SpreadOf(m.Of(plainName), bench.Wall).Median
	if plain > 0 && !slices.ContainsFunc(ours, func(s bench.Sample) bool { return s.Outcome != bench.OutcomeOK }) {
		got = bench.SpreadOf(ours, bench.Wall).Median / plain
	}
	res.Verdicts = append(res.Verdicts, bench.AtMost(m.Name+": wall time against a sequential pull", got, maxOverPlain, "x"))
	against(res, m)
}

// against compares with the better containerd.
func against(res *bench.Result, m bench.Measured) {
	cpu := func(s bench.Sample) (float64, bool) { return s.CPU.Seconds(), s.Outcome == bench.OutcomeOK }
	for _, x := range []struct {
		what string
		of   func(bench.Sample) (float64, bool)
		most float64
	}{{"CPU", cpu, maxCPU}, {"wall time", bench.Wall, maxWall}} {
		best := 0.0
		for _, name := range []string{ctrdGo, ctrdIgzip} {
			if v := bench.SpreadOf(m.Of(name), x.of).Median; v > 0 && (best == 0 || v < best) {
				best = v
			}
		}
		if best > 0 {
			got := bench.SpreadOf(m.Of(oursName), x.of).Median / best
			res.Verdicts = append(res.Verdicts, bench.AtMost(m.Name+": "+x.what+" against the better containerd", got, x.most, "x"))
		}
	}
}
