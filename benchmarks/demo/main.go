package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/penstock/penstock/internal/cli"
)

// options are the flags.
type options struct {
	only    string
	results string
	source  string
	bin     string
	temp    string
	workers int
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	tool := cli.Tool{Name: "demo", Default: demo, Commands: []cli.Sub{{Name: workerRole, Run: worker}}}
	code := tool.Run(ctx, os.Args[1:], cli.Streams{Out: os.Stdout, Err: os.Stderr})
	stop()
	os.Exit(code)
}

// path is one of the four jobs.
type path struct {
	name string
	run  func(ctx context.Context, env *environment) (result, error)
}

var paths = []path{{"image", runImage}, {"storage", runStorage}, {"dns", runDNS}, {"csi", runCSI}}

// pathNames are the values of --only.
var pathNames = []string{"image", "storage", "dns", "csi"}

func parse(args []string, s cli.Streams) (options, error) {
	var o options
	c := cli.New("demo", cli.Help{
		Usage: []string{"[flags]"},
		About: "Runs the main job of each Penstock package on real input, compares the results, and prints one table.",
		Exit:  "0 all jobs succeeded, 1 at least one failed, 2 wrong command line",
	})
	f := c.Group("Flags")
	cli.Choice(f, &o.only, "only", "run one `JOB`: image, storage, dns or csi (default all)", pathNames...)
	f.StringVar(&o.results, "results", "demo.json", "`FILE` for the results as JSON")
	f.StringVar(&o.source, "source", "", "`DIR` to use as input (default the Go tree, go env GOROOT)")
	f.StringVar(&o.bin, "bin", "", "`DIR` with the coredns and coredns-stock programs (default that of this program)")
	f.StringVar(&o.temp, "temp", "", "`DIR` for scratch files, three times the input's size (default the system's)")
	f.IntVar(&o.workers, "workers", 8, "`NUMBER` of worker processes of the storage job, 1 to 64")
	c.Old(cli.Old{Flag: "--json", New: "--results"})
	rest, err := c.Parse(args, s.Out)
	switch {
	case err != nil:
		return o, err
	case len(rest) > 0:
		return o, cli.Usage(fmt.Errorf("unexpected argument %q: the demo takes only flags", rest[0]))
	case o.workers < 1 || o.workers > 64:
		return o, cli.Usage(fmt.Errorf("--workers %d: use 1 to 64, each is a process", o.workers))
	}
	c.PrintOld(s.Err)
	return o, cli.Usage(o.fill())
}

// fill sets the defaults that depend on the machine.
func (o *options) fill() error {
	if o.source == "" {
		out, err := exec.Command("go", "env", "GOROOT").Output()
		if err != nil {
			return fmt.Errorf("no input: `go env GOROOT` failed (%w): name a folder with --source", err)
		}
		o.source = strings.TrimSpace(string(out))
	}
	if st, err := os.Stat(o.source); err != nil || !st.IsDir() {
		return fmt.Errorf("--source %q is not a folder", o.source)
	}
	if o.bin == "" {
		exe, err := os.Executable()
		if err != nil {
			return err
		}
		o.bin = filepath.Dir(exe)
	}
	return nil
}

// demo runs the paths.
func demo(ctx context.Context, args []string, s cli.Streams) error {
	o, err := parse(args, s)
	if err != nil {
		return err
	}
	begin := time.Now()
	env, err := newEnvironment(o)
	if err != nil {
		return err
	}
	results := runPaths(ctx, env)
	if err := env.close(); err != nil {
		return fmt.Errorf("clean up: %w", err)
	}
	if ctx.Err() != nil {
		return errors.New("interrupted")
	}
	printTable(os.Stdout, results, time.Since(begin))
	if err := writeJSON(o.results, results, time.Since(begin)); err != nil {
		return err
	}
	for _, r := range results {
		if r.Error != "" {
			return cli.ErrReported // the table shows it
		}
	}
	return nil
}

func runPaths(ctx context.Context, env *environment) []result {
	var results []result
	for _, p := range paths {
		if env.only != "" && env.only != p.name || ctx.Err() != nil {
			continue
		}
		env.ui.stage(p.name)
		begin := time.Now()
		r, err := p.run(ctx, env)
		r.Path, r.Seconds = p.name, time.Since(begin).Seconds()
		if err != nil {
			r.Error = err.Error()
			env.ui.say("FAILED: %v", err)
		}
		results = append(results, r)
	}
	return results
}

// result is the result of one path.
type result struct {
	Path    string         `json:"path"`
	Seconds float64        `json:"seconds"`
	Error   string         `json:"error,omitempty"`
	Note    string         `json:"note,omitempty"` // a part that could not run here, and why
	Lines   [][2]string    `json:"-"`              // for the table: name, value
	Figures map[string]any `json:"figures"`
}

// figure records a value for the table and for the JSON.
func (r *result) figure(key string, value any, what, shown string) {
	if r.Figures == nil {
		r.Figures = make(map[string]any)
	}
	r.Figures[key] = value
	r.Lines = append(r.Lines, [2]string{what, shown})
}

func writeJSON(file string, results []result, took time.Duration) error {
	out, err := json.MarshalIndent(struct {
		Seconds float64  `json:"seconds"`
		Paths   []result `json:"paths"`
	}{took.Seconds(), results}, "", "  ")
	if err != nil {
		return err
	}
	// Devices and pipes are written to instead of replaced.
	if st, err := os.Stat(file); err == nil && !st.Mode().IsRegular() {
		return os.WriteFile(file, append(out, '\n'), 0o644)
	}
	tmp := file + ".tmp"
	if err := os.WriteFile(tmp, append(out, '\n'), 0o644); err != nil {
		return err
	}
	return os.Rename(tmp, file)
}
