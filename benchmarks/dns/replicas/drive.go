package main

import (
	"bytes"
	"context"
	"encoding/gob"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/penstock/penstock/benchmarks/internal/bench"
	"github.com/penstock/penstock/internal/dnsload"
)

// simulator is the program that plays a trace through the plugin's store.
const simulator = "github.com/penstock/penstock/dnsplugin/internal/cmd/replicas"

// result is a line that the simulator prints.
type result struct {
	Replicas int     `json:"replicas"`
	Seconds  float64 `json:"seconds"` // simulated
	Queries  int64   `json:"queries"`
	Hits     int64   `json:"hits"`
	Misses   int64   `json:"misses"`
	Denials  int64   `json:"denials"`
	Evicted  int64   `json:"evicted"`
	Entries  int64   `json:"entries"`
}

// upstream is the rate at which the source is asked.
func (r result) upstream() float64 { return float64(r.Misses) / r.Seconds }

// run is a setting with its results.
type run struct {
	setting  setting
	weights  []int // of the trace
	results  []result
	expected []float64 // questions per second upstream, by theory; for each result
}

func drive(ctx context.Context, o options) error {
	machine := bench.ThisMachine()
	dir, err := os.MkdirTemp("", "penstock-replicas-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	bin := filepath.Join(dir, "simulator")
	if err := bench.Build(ctx, bin, simulator); err != nil {
		return err
	}
	var runs []run
	for _, s := range o.settings {
		fmt.Println(s)
		r, err := simulate(ctx, bin, s, o)
		if err != nil {
			return err
		}
		runs = append(runs, r)
	}
	res := report(o, runs)
	res.Machine = machine
	res.Print(os.Stdout)
	if o.out == "" {
		fmt.Println("\nquick run: nothing is written, and the figures mean little")
		return nil
	}
	at, err := res.Write(o.out)
	if err != nil {
		return err
	}
	if err := writePlot(filepath.Join(at, plotFile), runs); err != nil {
		return fmt.Errorf("plot: %w", err)
	}
	fmt.Printf("\nwritten: %s/{table.md,result.json,%s}\n", at, plotFile)
	return nil
}

// simulate plays the mix of a setting through each number of replicas.
func simulate(ctx context.Context, bin string, s setting, o options) (run, error) {
	t, err := newTrace(dnsload.NewMix(dnsload.MixOptions{Services: o.services, Queries: o.queries, TTL: s.ttl, Seed: o.seed}))
	if err != nil {
		return run{}, err
	}
	var in, stderr bytes.Buffer
	if err := gob.NewEncoder(&in).Encode(t); err != nil {
		return run{}, err
	}
	counts := make([]string, len(o.replicas))
	for i, n := range o.replicas {
		counts[i] = strconv.Itoa(n)
	}
	cmd := exec.CommandContext(ctx, bin, "-replicas", strings.Join(counts, ","), "-rate", strconv.Itoa(s.rate),
		"-warm", fmt.Sprintf("%ds", s.ttl), "-measure", fmt.Sprintf("%ds", s.measure), "-seed", strconv.FormatUint(o.seed, 10))
	cmd.Stdin, cmd.Stderr = &in, &stderr
	out, err := cmd.Output()
	if err != nil {
		return run{}, fmt.Errorf("%s: %w: %s", simulator, err, bytes.TrimSpace(stderr.Bytes()))
	}
	r := run{setting: s, weights: t.weights()}
	dec := json.NewDecoder(bytes.NewReader(out))
	for _, n := range o.replicas {
		var line result
		if err := dec.Decode(&line); err != nil {
			return run{}, fmt.Errorf("%s: result for %d replicas: %w", simulator, n, err)
		}
		if line.Replicas != n || line.Hits+line.Misses != line.Queries || line.Seconds <= 0 {
			return run{}, fmt.Errorf("%s: result for %d replicas does not add up: %+v", simulator, n, line)
		}
		r.results = append(r.results, line)
		r.expected = append(r.expected, renewals(r.weights, s, n))
	}
	return r, nil
}

// renewals is the rate of misses by theory, of names with the given weights
// and random arrivals over n replicas: each is a renewal process that is
// deaf for a TTL after each event.
func renewals(weights []int, s setting, n int) float64 {
	all := 0
	for _, w := range weights {
		all += w
	}
	sum := 0.0
	for _, w := range weights {
		rate := float64(s.rate) * float64(w) / float64(all) / float64(n)
		sum += float64(n) * rate / (1 + rate*float64(s.ttl))
	}
	return sum
}
