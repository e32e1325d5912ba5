package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Exit codes.
const (
	exitFailed = 1
	exitUsage  = 2
)

// options are the flags.
type options struct {
	only    string
	json    string
	source  string
	bin     string
	temp    string
	workers int
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	var code int
	if len(os.Args) > 1 && os.Args[1] == workerRole {
		code = worker(ctx, os.Args[2:])
	} else {
		code = demo(ctx, os.Args[1:])
	}
	stop()
	os.Exit(code)
}

// path is one of the four jobs.
type path struct {
	name string
	run  func(ctx context.Context, env *environment) (result, error)
}

var paths = []path{{"image", runImage}, {"storage", runStorage}, {"dns", runDNS}, {"csi", runCSI}}

func parse(args []string) (options, error) {
	var o options
	fs := flag.NewFlagSet("demo", flag.ContinueOnError)
	fs.StringVar(&o.only, "only", "", "run `one` path: image, storage, dns or csi")
	fs.StringVar(&o.json, "json", "demo.json", "`file` for the results")
	fs.StringVar(&o.source, "source", "", "`folder` to use as input (default: the Go tree, go env GOROOT)")
	fs.StringVar(&o.bin, "bin", "", "`folder` with the coredns and coredns-stock programs (default: the folder of this program)")
	fs.StringVar(&o.temp, "temp", "", "`folder` for scratch files, three times the input's size (default: the system's)")
	fs.IntVar(&o.workers, "workers", 8, "number of worker processes of the storage path")
	if err := fs.Parse(args); err != nil {
		return o, err
	}
	known := slices.ContainsFunc(paths, func(p path) bool { return p.name == o.only })
	switch {
	case fs.NArg() > 0:
		return o, fmt.Errorf("unexpected argument %q: flags only", fs.Arg(0))
	case o.only != "" && !known:
		return o, fmt.Errorf("-only %q is not a path: use image, storage, dns or csi", o.only)
	case o.workers < 1 || o.workers > 64:
		return o, fmt.Errorf("-workers %d: use 1 to 64, each is a process", o.workers)
	}
	return o, o.fill()
}

// fill sets the defaults that depend on the machine.
func (o *options) fill() error {
	if o.source == "" {
		out, err := exec.Command("go", "env", "GOROOT").Output()
		if err != nil {
			return fmt.Errorf("no input: `go env GOROOT` failed (%w): name a folder with -source", err)
		}
		o.source = strings.TrimSpace(string(out))
	}
	if st, err := os.Stat(o.source); err != nil || !st.IsDir() {
		return fmt.Errorf("-source %q is not a folder", o.source)
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

// demo runs the paths and returns the exit code.
func demo(ctx context.Context, args []string) int {
	o, err := parse(args)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		return exitUsage
	}
	begin := time.Now()
	env, err := newEnvironment(o)
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		return exitFailed
	}
	results := runPaths(ctx, env)
	if err := env.close(); err != nil {
		fmt.Fprintln(os.Stderr, "demo: clean up:", err)
		return exitFailed
	}
	if ctx.Err() != nil {
		fmt.Fprintln(os.Stderr, "demo: interrupted")
		return exitFailed
	}
	printTable(os.Stdout, results, time.Since(begin))
	if err := writeJSON(o.json, results, time.Since(begin)); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		return exitFailed
	}
	for _, r := range results {
		if r.Error != "" {
			return exitFailed
		}
	}
	return 0
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
