package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/penstock/penstock/csi"
	"github.com/penstock/penstock/internal/testorigin"
)

// sampled is the number of files that are read through the mount and compared, in
// addition to the largest one.
const sampled = 500

// runCSI calls the driver as a kubelet does and reads files of the bucket.
func runCSI(ctx context.Context, env *environment) (result, error) {
	for _, f := range env.files {
		if err := env.origin.PutFile(bucketName, f.key, f.path); err != nil {
			return result{}, err
		}
	}
	env.origin.Reset()
	if why := cannotMount(); why != "" {
		return coreOnly(ctx, env, why)
	}
	return throughKubelet(ctx, env)
}

// cannotMount returns the reason why this machine cannot mount, or "".
func cannotMount() string {
	if os.Geteuid() != 0 {
		return "not root: no mount, read through the same file-system core without the kernel"
	}
	f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err != nil {
		return fmt.Sprintf("no /dev/fuse (%v): read through the same file-system core without the kernel", err)
	}
	_ = f.Close() // opened only to see whether that is possible
	return ""
}

func s3Options(env *environment) csi.S3Options {
	return csi.S3Options{Endpoint: env.origin.URL(), Region: "us-east-1", AccessKeyID: testorigin.AccessKey, SecretAccessKey: testorigin.SecretKey}
}

func coreOnly(ctx context.Context, env *environment, why string) (result, error) {
	var r result
	r.Note = why
	env.ui.say("%s", why)
	b, err := csi.OpenBucket(ctx, csi.BucketOptions{Bucket: bucketName, S3: s3Options(env)})
	if err != nil {
		return r, err
	}
	err = readFiles(ctx, env, b.FS(ctx), &r)
	return r, errors.Join(err, b.Close())
}

// readFiles compares a sample of the files with their sources, and measures the
// time of the largest one.
func readFiles(ctx context.Context, env *environment, fsys fs.FS, r *result) error {
	largest := env.files[0]
	var picked []file
	var total int64
	for i, f := range env.files {
		if f.size > largest.size {
			largest = f
		}
		if i%max(1, len(env.files)/sampled) == 0 {
			picked = append(picked, f)
			total += f.size
		}
	}
	j := env.ui.job("read and compare files", total)
	for _, f := range picked {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := compareFile(fsys, f); err != nil {
			return err
		}
		j.add(f.size)
	}
	j.end("%d files equal", len(picked))
	before, begin := env.origin.TotalBytes(bucketName+"/"+largest.key), time.Now()
	if err := compareFile(fsys, largest); err != nil {
		return err
	}
	took := time.Since(begin)
	env.ui.say("%s (%s) in %.2f s", largest.key, size(largest.size), took.Seconds())
	fetched := env.origin.TotalBytes(bucketName+"/"+largest.key) - before
	r.figure("files", len(picked), "files", fmt.Sprintf("%d (%s) read and equal to the source", len(picked), size(total)))
	r.figure("largest_bytes_per_second", float64(largest.size)/took.Seconds(), "largest file", fmt.Sprintf("%s, read and compared at %s, %.2f bytes fetched for each", size(largest.size), rate(largest.size, took), float64(fetched)/float64(largest.size)))
	return nil
}

func compareFile(fsys fs.FS, f file) error {
	got, err := fsys.Open(f.key)
	if err != nil {
		return err
	}
	defer got.Close()
	want, err := os.Open(f.path)
	if err != nil {
		return err
	}
	defer want.Close()
	return compareReaders(io.Reader(want), got, f.key)
}
