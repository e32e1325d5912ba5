package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/penstock/penstock/internal/cli"
	"github.com/penstock/penstock/s3stream"
)

// job is a subcommand.
type job interface {
	base() *command
	// finish completes and checks the options after the flags are parsed.
	finish(env map[string]string, s cli.Streams) error
	// run does the work. The report is nil after most failures.
	run(ctx context.Context, s cli.Streams) (*s3stream.Report, error)
}

// parse reads the command line and the environment into a job.
func parse(j job, args []string, env map[string]string, s cli.Streams) (err error) {
	c := j.base()
	if c.uris, err = c.Parse(args, s.Out); err != nil {
		return err
	}
	c.meter = c.Meter(s.Err)
	c.log = c.Logger(s.Err)
	return cli.Usage(j.finish(env, s))
}

// perform runs a job and prints its result.
func perform(ctx context.Context, j job, s cli.Streams) error {
	c := j.base()
	rep, err := j.run(ctx, s)
	c.meter.End()
	if err != nil && ctx.Err() != nil {
		err = errors.New("interrupted")
	}
	c.print(rep, err, s)
	return err
}

func (c *getCommand) run(ctx context.Context, _ cli.Streams) (*s3stream.Report, error) {
	return s3stream.Get(ctx, c.options)
}

func (c *leaderCommand) run(ctx context.Context, s cli.Streams) (*s3stream.Report, error) {
	l, err := s3stream.NewLeader(c.options)
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(s.Err, "penstock-cast leader: listening on %s\n", l.Addr())
	return l.Run(ctx)
}

func (c *workerCommand) run(ctx context.Context, _ cli.Streams) (*s3stream.Report, error) {
	w, err := s3stream.NewWorker(c.options)
	if err != nil {
		return nil, err
	}
	return w.Run(ctx)
}

// castProgress shows the progress of a command on its meter.
type castProgress command

// Start implements [s3stream.Progress].
func (p *castProgress) Start(_ int, bytes int64) {
	if bytes > 0 {
		p.meter.Start("", "", bytes)
	}
}

// Advance implements [s3stream.Progress].
func (p *castProgress) Advance(bytes int64) {
	p.done += bytes
	p.meter.Set(p.done, nil, nil)
}

// Done implements [s3stream.Progress]. perform ends the meter, for failures too.
func (p *castProgress) Done() {}

// print writes the result: JSON on standard output for programs, or a table of
// the workers or a line for people. Text for people goes to standard error, so
// that it does not mix with the bytes of objects.
func (c *command) print(rep *s3stream.Report, err error, s cli.Streams) {
	switch {
	case c.json:
		out := struct {
			*s3stream.Report        // nil, and so absent, after most failures
			Error            string `json:"error,omitempty"`
		}{Report: rep}
		if err != nil {
			out.Error = cli.Line(err)
		}
		_ = cli.WriteJSON(s.Out, out) // the reader has closed our output
	case rep == nil:
	case len(rep.Workers) > 0:
		fmt.Fprint(s.Err, rep.Table())
	default:
		fmt.Fprintf(s.Err, "penstock-cast get: %d objects, %d bytes in %.3f s (%.1f MB/s), verified\n",
			rep.Objects, rep.Bytes, rep.Elapsed.Seconds(), float64(rep.Bytes)/max(rep.Elapsed.Seconds(), 1e-9)/1e6)
	}
}

// output turns the flags into an Output.
func (c *command) output(stdout io.Writer) (o s3stream.Output, err error) {
	o.File, o.Sync = c.file, c.sync
	switch {
	case c.out != "" && c.file != "":
		return o, errors.New("more than one output: --output and --file exclude each other")
	case c.out == "-" && c.json:
		return o, errors.New("--json and -o - both want standard output: leave one out")
	case c.out == "-":
		o.Writer = stdout
	default:
		o.Dir = c.out
	}
	return o, nil
}
