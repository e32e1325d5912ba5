package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/penstock/penstock/benchmarks/internal/bench"
	"github.com/penstock/penstock/s3stream"
)

// The object's name on the origin.
const (
	bucket = "bench"
	key    = "weights"
)

// job describes the work of a contestant.
type job struct {
	bin      string // the program to start
	endpoint string
	workers  int
}

// role runs the processes of a job and returns the sum of their bytes.
type role func(ctx context.Context, j job) (int64, error)

// runRole runs a contestant once and prints one line.
func runRole(ctx context.Context, args []string, run role) error {
	var j job
	fs := flag.NewFlagSet("job", flag.ContinueOnError)
	fs.StringVar(&j.bin, "bin", "", "program to start")
	fs.StringVar(&j.endpoint, "endpoint", "", "S3 endpoint")
	fs.IntVar(&j.workers, "workers", 0, "number of workers")
	if err := fs.Parse(args); err != nil {
		return err
	}
	start := time.Now()
	n, err := run(ctx, j)
	r := bench.Report{Bytes: n, Seconds: time.Since(start).Seconds(), Outcome: bench.OutcomeOK}
	if err != nil {
		r.Outcome, r.Error = bench.OutcomeError, err.Error()
	}
	return errors.Join(err, bench.PrintReport(os.Stdout, r))
}

// together starts n commands and waits for all of them. The first failure ends
// the others.
func together(ctx context.Context, n int, command func(ctx context.Context, i int) *exec.Cmd) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			cmd := command(ctx, i)
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			if err := cmd.Run(); err != nil {
				errs[i] = fmt.Errorf("process %d: %w: %s", i, err, bytes.TrimSpace(stderr.Bytes()))
				cancel()
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// eachReads makes every process read the object itself.
func eachReads(ctx context.Context, j job) (int64, error) {
	out := make([]bytes.Buffer, j.workers)
	err := together(ctx, j.workers, func(ctx context.Context, i int) *exec.Cmd {
		cmd := exec.CommandContext(ctx, j.bin, "-client", "manager-pooled", "-endpoint", j.endpoint, "-bucket", bucket, "-key", key)
		cmd.Stdout = &out[i]
		return cmd
	})
	var total int64
	for i := range out {
		var r bench.Report
		if json.Unmarshal(out[i].Bytes(), &r) == nil {
			total += r.Bytes
		}
	}
	return total, err
}

// broadcast starts a leader and its workers. Every worker writes the object to its
// standard output, which is the null device, so that no disk takes part. Naming the
// null device with -f would replace it: a worker puts a file in place by a rename.
func broadcast(ctx context.Context, j job) (int64, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	leader := exec.CommandContext(ctx, j.bin, "leader", "--json", "-q", "--endpoint", j.endpoint,
		"--listen", "127.0.0.1:0", "--workers", strconv.Itoa(j.workers), "s3://"+bucket+"/"+key)
	var report bytes.Buffer
	leader.Stdout = &report
	stderr, err := leader.StderrPipe()
	if err != nil {
		return 0, err
	}
	if err := leader.Start(); err != nil {
		return 0, err
	}
	sc := bufio.NewScanner(stderr)
	addr, said := "", ""
	for addr == "" && sc.Scan() {
		said = sc.Text()
		if _, a, ok := strings.Cut(said, "listening on "); ok {
			addr = a
		}
	}
	if addr == "" {
		return 0, errors.Join(fmt.Errorf("the leader did not start: %s", said), leader.Wait())
	}
	rest := make(chan string, 1)
	go func() {
		last := ""
		for sc.Scan() {
			last = sc.Text()
		}
		rest <- last
	}()
	err = together(ctx, j.workers, func(ctx context.Context, i int) *exec.Cmd {
		return exec.CommandContext(ctx, j.bin, "worker", "-q", "--leader", addr, "--listen", "127.0.0.1:0",
			"--rank", strconv.Itoa(i+1), "--name", "w"+strconv.Itoa(i+1), "-o", "-")
	})
	if err != nil {
		cancel()
	}
	last := <-rest
	if e := leader.Wait(); e != nil {
		err = errors.Join(err, fmt.Errorf("leader: %w: %s", e, last))
	}
	if err != nil {
		return 0, err
	}
	return delivered(report.Bytes(), j.workers)
}

// delivered reads the leader's report: the bytes that all workers received, if all are right.
func delivered(report []byte, workers int) (int64, error) {
	var r s3stream.Report
	if err := json.Unmarshal(report, &r); err != nil {
		return 0, fmt.Errorf("the leader's report: %w", err)
	}
	if len(r.Workers) != workers {
		return 0, fmt.Errorf("%d workers in the report instead of %d", len(r.Workers), workers)
	}
	var total int64
	for _, w := range r.Workers {
		if !w.HashOK {
			return 0, fmt.Errorf("worker %s: its hash is not the leader's", w.Name)
		}
		total += w.Bytes
	}
	return total, nil
}
