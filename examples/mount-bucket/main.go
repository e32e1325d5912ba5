//go:build linux

// Command mount-bucket mounts a bucket, or lists it where mounts are not possible.
//
//	mount-bucket -bucket models -prefix llama -dir /mnt/models
//
// It mounts as root and, with the package fuse3, as any user. Without -dir, or
// where FUSE is missing, it reads the same file system without the kernel.
// Credentials and endpoint come from the environment (AWS_ACCESS_KEY_ID,
// AWS_PROFILE, AWS_ENDPOINT_URL, ...).
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/penstock/penstock/csi"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "mount-bucket:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	var opts csi.MountOptions
	flag.StringVar(&opts.Bucket, "bucket", "", "bucket")
	flag.StringVar(&opts.Prefix, "prefix", "", "show only the keys below")
	flag.StringVar(&opts.S3.Endpoint, "endpoint", "", "URL of the S3 service")
	flag.StringVar(&opts.Dir, "dir", "", "where to mount; empty: list instead")
	flag.Parse()

	if opts.Dir == "" {
		return list(ctx, opts.BucketOptions)
	}
	m, err := csi.Mount(ctx, opts)
	if errors.Is(err, csi.ErrNoDevice) || errors.Is(err, csi.ErrNoHelper) {
		fmt.Fprintln(os.Stderr, err)
		return list(ctx, opts.BucketOptions)
	}
	if err != nil {
		return err
	}
	fmt.Println("mounted on", m.Dir(), "until Ctrl-C")
	select {
	case <-ctx.Done():
	case <-m.Done(): // umount was run
	}
	unmount, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	return m.Unmount(unmount)
}

// list walks the bucket as an io/fs file system.
func list(ctx context.Context, opts csi.BucketOptions) error {
	b, err := csi.OpenBucket(ctx, opts)
	if err != nil {
		return err
	}
	defer b.Close()
	return fs.WalkDir(b.FS(ctx), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		fmt.Printf("%12d  %s  %s\n", info.Size(), info.ModTime().UTC().Format(time.RFC3339), path)
		return nil
	})
}
