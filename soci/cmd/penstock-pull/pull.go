package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/penstock/penstock/internal/cli"
	"github.com/penstock/penstock/internal/printable"
	"github.com/penstock/penstock/soci"
)

// runPull is the program without a subcommand.
func runPull(ctx context.Context, args []string, s cli.Streams) error {
	c, err := parsePull(args, s)
	if err != nil {
		return err
	}
	res, err := c.pull(ctx)
	c.progress.meter.End()
	if err != nil {
		return c.failed(ctx, err)
	}
	if c.config != "" {
		if err := saveConfig(c.config, res.Config, s.Out); err != nil {
			return fmt.Errorf("%sthe image's configuration could not be saved: %w", c.inPlace(), err)
		}
	}
	if c.config == "-" || c.root == "" && c.layers == "" {
		return nil
	}
	if c.json {
		err = cli.WriteJSON(s.Out, res)
	} else {
		err = printResult(s.Out, res)
	}
	if err != nil {
		return fmt.Errorf("the image is in place, but the result could not be written: %w", err)
	}
	return nil
}

func (c *pullCommand) pull(ctx context.Context) (_ *soci.Result, err error) {
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

// inPlace begins an error that follows a successful pull to a directory.
func (c *pullCommand) inPlace() string {
	if c.root == "" && c.layers == "" {
		return ""
	}
	return "the image is in place, but "
}

// failed returns the error to print when a pull has failed. It adds the
// directory of the finished layers.
func (c *pullCommand) failed(ctx context.Context, err error) error {
	left := ""
	e, isOurs := errors.AsType[*soci.Error](err)
	if isOurs && e.Kept != "" {
		left = "; the finished layers wait in " + e.Kept + " for the next pull to the same directory (--keep-failed=false removes them)"
	}
	if ctx.Err() != nil && !errors.Is(err, soci.ErrLeft) {
		if left == "" {
			left = "; no files were left behind"
		}
		return errors.New("interrupted" + left)
	}
	// Only the text of the error is cut, so that a long one does not hide where the layers are.
	text := errors.New(printable.Error(err, cli.MaxLine-len(left)) + left)
	if isOurs && e.Op == "parse" {
		return cli.Usage(text)
	}
	return text
}
