package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"github.com/penstock/penstock/benchmarks/internal/bench"
)

// The figures of a run in Report.Extra, in addition to its wall time.
const (
	extraCPU     = "cpu_seconds"   // user + system of the client and its daemons during the pull
	extraRSS     = "rss_bytes"     // high-water marks of the client and its daemons, summed
	extraWritten = "written_bytes" // sent to storage, by /proc/PID/io
	extraPeak    = "peak_bytes"    // most bytes in use on the file system, by statfs
	extraLeft    = "left_bytes"    // bytes in use at the end
)

const (
	diskEvery = 10 * time.Millisecond  // a statfs costs a microsecond
	treeEvery = 100 * time.Millisecond // a read of a few files for each thread
)

// meter watches a file system, and the processes below this one, until it is stopped.
type meter struct {
	dir   string
	since int64 // bytes in use at the start
	quit  chan struct{}
	done  sync.WaitGroup
	peak  int64 // written by the poller, read after done
	rss   int64
}

func startMeter(dir string) (*meter, error) {
	since, err := taken(dir)
	if err != nil {
		return nil, err
	}
	m := &meter{dir: dir, since: since, quit: make(chan struct{})}
	m.done.Go(m.poll)
	return m, nil
}

func (m *meter) poll() {
	disk, procs := time.NewTicker(diskEvery), time.NewTicker(treeEvery)
	defer disk.Stop()
	defer procs.Stop()
	for {
		select {
		case <-disk.C:
			m.look()
		case <-procs.C:
			m.rss = max(m.rss, below())
		case <-m.quit:
			m.look()
			m.rss = max(m.rss, below())
			return
		}
	}
}

func (m *meter) look() {
	if n, err := taken(m.dir); err == nil {
		m.peak = max(m.peak, n-m.since)
	}
}

// stop ends the meter and returns the bytes in use now.
func (m *meter) stop() int64 {
	close(m.quit)
	m.done.Wait()
	n, err := taken(m.dir)
	if err != nil {
		return 0
	}
	return n - m.since
}

// below returns the memory of all processes that this one has started.
func below() int64 {
	var sum int64
	for _, pid := range bench.Tree(os.Getpid())[1:] {
		sum += bench.HWM(pid)
	}
	return sum
}

// runAccount is the role that runs a client once, and reports its cost.
func runAccount(ctx context.Context, args []string) error {
	fs := flag.NewFlagSet("account", flag.ContinueOnError)
	dir := fs.String("dir", "", "file system to watch")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if fs.NArg() == 0 {
		return errors.New("no command to run")
	}
	m, err := startMeter(*dir)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, fs.Arg(0), fs.Args()[1:]...)
	tail := &limited{max: 2 << 10}
	cmd.Stdout, cmd.Stderr = io.Discard, tail
	start := time.Now()
	err = cmd.Run()
	err = errors.Join(err, flush(*dir))
	r := bench.Report{Seconds: time.Since(start).Seconds(), Outcome: bench.OutcomeOK}
	left := m.stop()
	if err != nil {
		r.Outcome, r.Error = bench.OutcomeError, fmt.Sprintf("%v: %s", err, tail.text)
	}
	var children syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_CHILDREN, &children); err != nil {
		return err
	}
	cpu := time.Duration(children.Utime.Nano() + children.Stime.Nano())
	r.Extra = map[string]float64{
		extraCPU: cpu.Seconds(), extraRSS: float64(max(m.rss, children.Maxrss<<10)),
		// The children have been waited for, so our own figure includes their bytes.
		extraWritten: float64(bench.UsageOf(os.Getpid()).Written),
		extraPeak:    float64(m.peak), extraLeft: float64(left),
	}
	return errors.Join(err, bench.PrintReport(os.Stdout, r))
}

// limited keeps the first max bytes.
type limited struct {
	text []byte
	max  int
}

func (l *limited) Write(p []byte) (int, error) {
	l.text = append(l.text, p[:min(len(p), l.max-len(l.text))]...)
	return len(p), nil
}
