package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/penstock/penstock/internal/printable"
	"github.com/penstock/penstock/internal/version"
	"github.com/penstock/penstock/soci"
)

// Exit codes.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run is the program; it returns the exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	if version.Asked(args) {
		fmt.Fprintln(stdout, version.Line("penstock-pull"))
		return exitOK
	}
	if len(args) > 0 {
		switch args[0] {
		case "prefetch":
			return runPrefetch(ctx, args[1:], stdout, stderr)
		case "ztoc":
			return runZtoc(ctx, args[1:], stdout, stderr)
		}
	}
	c, err := parse(args, stderr)
	switch {
	case errors.Is(err, errHelp):
		fmt.Fprint(stdout, usage)
		return exitOK
	case err != nil:
		fmt.Fprintf(stderr, "penstock-pull: %s\n", oneLine(err))
		return exitUsage
	}
	res, err := c.pull(ctx)
	c.meter.end()
	if err != nil {
		return c.failed(ctx, err, stderr)
	}
	if c.config != "" {
		if err := saveConfig(c.config, res.Config, stdout); err != nil {
			fmt.Fprintf(stderr, "penstock-pull: %sthe image's configuration could not be saved: %s\n", c.inPlace(), oneLine(err))
			return exitFailed
		}
	}
	if c.config == "-" || c.root == "" && c.layers == "" {
		return exitOK
	}
	if c.json {
		e := json.NewEncoder(stdout)
		e.SetIndent("", "  ")
		err = e.Encode(res)
	} else {
		err = printResult(stdout, res)
	}
	if err != nil {
		fmt.Fprintf(stderr, "penstock-pull: the image is in place, but the result could not be written: %v\n", err)
		return exitFailed
	}
	return exitOK
}

func (c *command) pull(ctx context.Context) (_ *soci.Result, err error) {
	p, err := soci.New(c.options)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, p.Close()) }()
	switch {
	case c.layers != "":
		return p.PullLayers(ctx, c.reference, c.layers)
	case c.root != "":
		return p.Pull(ctx, c.reference, c.root)
	}
	img, err := p.Resolve(ctx, c.reference)
	if err != nil {
		return nil, err
	}
	return &soci.Result{Config: img.RawConfig}, nil
}

// inPlace says that the image is there, if it was to be.
func (c *command) inPlace() string {
	if c.root == "" && c.layers == "" {
		return ""
	}
	return "the image is in place, but "
}

func (c *command) failed(ctx context.Context, err error, stderr io.Writer) int {
	left := ""
	if e, ok := errors.AsType[*soci.Error](err); ok && e.Kept != "" {
		left = "; what was finished waits in " + e.Kept + " for the next pull to the same directory (--keep-failed=false removes it)"
	}
	if ctx.Err() != nil && !errors.Is(err, soci.ErrLeft) {
		if left == "" {
			left = "; nothing was left behind"
		}
		fmt.Fprintf(stderr, "penstock-pull: interrupted%s\n", left)
		return exitFailed
	}
	fmt.Fprintf(stderr, "penstock-pull: %s%s\n", oneLine(err), left)
	if e, ok := errors.AsType[*soci.Error](err); ok && e.Op == "parse" {
		return exitUsage
	}
	return exitFailed
}

// oneLine keeps joined errors on one line and escapes control characters in remote text.
func oneLine(err error) string { return printable.Error(err, maxError) }

// maxError bounds the line in bytes: a page of a proxy must not push what matters off the screen.
const maxError = 4096
