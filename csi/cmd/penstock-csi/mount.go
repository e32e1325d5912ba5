//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/penstock/penstock/csi"
	"github.com/penstock/penstock/internal/cli"
)

// stopTime bounds unmounting after a signal, so that a person gets the prompt
// back within a second.
const stopTime = 800 * time.Millisecond

// mountCommand is a parsed command line.
type mountCommand struct {
	*cli.Command
	options  csi.MountOptions
	readOnly bool
}

// newMount returns the command with its flags.
func newMount() *mountCommand {
	c := &mountCommand{Command: cli.New("penstock-csi mount", cli.Help{
		Usage: []string{"BUCKET[/PREFIX] DIR [flags]"},
		About: "Mounts one bucket read-only until SIGINT, SIGTERM or SIGHUP, or until the mount is removed.",
		Examples: []string{
			"penstock-csi mount models/llama /mnt/models --region us-east-1",
			"penstock-csi mount data /mnt/data --endpoint https://s3.example",
		},
		Env: awsEnv,
	})}
	o := &c.options
	f := c.Group("Mount flags")
	f.BoolVar(&c.readOnly, "read-only", true, "mount read-only; writes are not supported yet")
	f.BoolVar(&o.AllowEmpty, "allow-empty", false, "mount although no object is below the prefix yet")
	f.BoolVar(&o.AllowOther, "allow-other", false, "let other users read as well")
	f.IntVar(&o.UID, "uid", 0, "`ID` of the user that owns all files (default yours)")
	f.IntVar(&o.GID, "gid", 0, "`ID` of the group that owns all files (default yours)")
	f.Var((*mode)(&o.FileMode), "file-mode", "permissions of files")
	cli.ShowDefault(f, "file-mode", "0444")
	f.Var((*mode)(&o.DirMode), "dir-mode", "permissions of directories")
	cli.ShowDefault(f, "dir-mode", "0555")
	f.Var((*ttl)(&o.MetadataTTL), "metadata-ttl", "`DURATION` for which the metadata of a name is cached, so that a deletion shows that late; 0 caches nothing. Without this flag, opening a file also asks the store")
	cli.ShowDefault(f, "metadata-ttl", "1s")
	cli.Bytes(f, &o.Memory, "memory", "`SIZE` of the buffers for reads, for example 512MiB (default a share of the memory limit)")
	s3 := s3Flags(&o.S3)
	s3.SSECustomerKeyFile = &o.S3.SSECustomerKeyFile // not for node: a volume may name its own endpoint, which must not get the key
	c.S3Flags("endpoint", s3)
	logFlags(c.Command, slog.LevelWarn)
	return c
}

func parseMount(args []string, s cli.Streams) (*mountCommand, error) {
	c := newMount()
	rest, err := c.Parse(args, s.Out)
	switch {
	case err != nil:
		return nil, err
	case len(rest) != 2:
		return nil, cli.Usage(fmt.Errorf("mount takes a bucket and a directory, not %d arguments: penstock-csi mount BUCKET[/PREFIX] DIR", len(rest)))
	case !c.readOnly:
		return nil, cli.Usage(errors.New("--read-only=false: writing is not supported, leave the flag out"))
	}
	c.options.Bucket, c.options.Prefix = splitBucket(rest[0])
	c.options.Dir = rest[1]
	if c.LogsJSON() {
		c.DefaultLogLevel(slog.LevelInfo) // a program reads the log, and waits for "mounted"
	}
	return c, cli.Usage(c.options.Validate())
}

// runMount mounts one bucket until the context ends or the mount is removed.
//
// A program that reads from the mount sees only an error number. So by default
// the log says why reads failed, and has no other lines.
func runMount(ctx context.Context, args []string, s cli.Streams) error {
	c, err := parseMount(args, s)
	if err != nil {
		return err
	}
	opts, log := c.options, c.Logger(s.Err)
	opts.Log = log
	limitHeap(opts.Memory)
	m, err := csi.Mount(ctx, opts)
	if err != nil {
		return err
	}
	if c.LogsJSON() {
		log.Info("mounted", "bucket", opts.Bucket, "prefix", opts.Prefix, "dir", m.Dir())
	} else {
		fmt.Fprintf(s.Err, "penstock-csi: s3://%s/%s is mounted on %s, read-only; Ctrl-C unmounts it\n", opts.Bucket, opts.Prefix, m.Dir())
	}
	select {
	case <-ctx.Done():
	case <-m.Done():
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTime)
	defer cancel()
	err = m.Unmount(stop)
	if errors.Is(err, csi.ErrDetached) {
		return nil // the rest of the mount ends with this process
	}
	return err
}

// splitBucket splits BUCKET[/PREFIX], with or without s3:// before it. An
// access-point ARN has a slash of its own.
func splitBucket(s string) (bucket, prefix string) {
	s = strings.TrimPrefix(s, "s3://")
	if arn, isARN := strings.CutPrefix(s, "arn:"); isARN {
		kind, rest, ok := strings.Cut(arn, "/")
		if !ok {
			return s, ""
		}
		name, prefix, _ := strings.Cut(rest, "/")
		return "arn:" + kind + "/" + name, prefix
	}
	bucket, prefix, _ = strings.Cut(s, "/")
	return bucket, prefix
}
