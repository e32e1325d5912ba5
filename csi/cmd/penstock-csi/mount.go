//go:build linux

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"

	"github.com/penstock/penstock/csi"
)

// stopTime bounds unmounting after a signal: a person gets the prompt back within a second.
const stopTime = 800 * time.Millisecond

// runMount mounts one bucket until it is told to stop, or the mount is taken away.
func runMount(ctx context.Context, args []string, stderr io.Writer) error {
	opts, logs, err := mountOptions(args, stderr)
	if err != nil {
		return err
	}
	// A program that reads sees an error number and no more, so by default the log tells why a read failed, and nothing else.
	least := slog.LevelWarn
	if logs.json {
		least = slog.LevelInfo
	}
	log := logs.logger(stderr, least)
	opts.Log = log
	limitHeap(opts.Memory)
	m, err := csi.Mount(ctx, opts)
	if err != nil {
		return err
	}
	if logs.json {
		log.Info("mounted", "bucket", opts.Bucket, "prefix", opts.Prefix, "dir", m.Dir())
	} else {
		fmt.Fprintf(stderr, "penstock-csi: s3://%s/%s is mounted on %s, read-only; Ctrl-C unmounts it\n", opts.Bucket, opts.Prefix, m.Dir())
	}
	select {
	case <-ctx.Done():
	case <-m.Done():
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTime)
	defer cancel()
	err = m.Unmount(stop)
	if errors.Is(err, csi.ErrDetached) {
		return nil // the end of this process is the end of what is left
	}
	return err
}

func mountOptions(args []string, stderr io.Writer) (csi.MountOptions, logFlags, error) {
	var (
		opts csi.MountOptions
		logs logFlags
		fs   = flag.NewFlagSet("mount", flag.ContinueOnError)
	)
	readOnly := fs.Bool("read-only", true, "mount read-only; writing is not supported yet")
	fs.BoolVar(&opts.AllowEmpty, "allow-empty", false, "mount although nothing is below the prefix yet")
	fs.BoolVar(&opts.AllowOther, "allow-other", false, "let other users read as well")
	fs.IntVar(&opts.UID, "uid", 0, "`id` of the user who owns all files (0: yours)")
	fs.IntVar(&opts.GID, "gid", 0, "`id` of the group that owns all files (0: yours)")
	fs.Var((*mode)(&opts.FileMode), "file-mode", "permissions of files, in `octal` (0: 0444)")
	fs.Var((*mode)(&opts.DirMode), "dir-mode", "permissions of directories, in `octal` (0: 0555)")
	fs.Var((*ttl)(&opts.MetadataTTL), "metadata-ttl", "how `long` to cache what is known of a name, deletes included; opens ask only without this flag (default 1s; 0s: never)")
	fs.Var((*size)(&opts.Memory), "memory", "`bytes` to buffer for reads, such as 512MiB (0: a share of the memory limit)")
	addS3(fs, &opts.S3, "endpoint")
	// Not for node: a volume may name its own endpoint, which must not be sent the key.
	fs.StringVar(&opts.S3.SSECustomerKeyFile, "sse-customer-key-file", "", "`file` with the 32-byte key of objects that are encrypted with it (SSE-C): raw, base64 or hexadecimal")
	logs.add(fs)
	rest, err := parse(fs, args, stderr)
	switch {
	case err != nil:
		return opts, logs, err
	case len(rest) != 2:
		return opts, logs, usageError{fmt.Errorf("mount takes a bucket and a directory, not %d arguments: penstock-csi mount BUCKET[/PREFIX] DIR", len(rest))}
	case !*readOnly:
		return opts, logs, usageError{errors.New("--read-only=false: writing is not supported, leave the flag out")}
	}
	opts.Bucket, opts.Prefix = splitBucket(rest[0])
	opts.Dir = rest[1]
	if err := opts.Validate(); err != nil {
		return opts, logs, usageError{err}
	}
	return opts, logs, nil
}

// splitBucket takes BUCKET[/PREFIX] apart, with or without s3:// before it. An access-point ARN has a slash of its own.
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
