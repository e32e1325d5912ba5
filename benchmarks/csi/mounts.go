package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/penstock/penstock/benchmarks/internal/bench"
	"github.com/penstock/penstock/internal/testorigin"
)

// The contestants.
const (
	oursName   = "penstock-csi"
	s3fsName   = "s3fs"
	rcloneName = "rclone mount"
)

// rclone is the pinned version of the peer, because Debian's is years old.
const rclone = "github.com/rclone/rclone@v1.76.0"

// mountWithin is the time within which a mount must show its files.
const mountWithin = 20 * time.Second

// mounter is a program that mounts the bucket in the foreground.
type mounter struct {
	name string
	argv func(dir string) []string
	env  []string
}

// mounters returns the programs that this machine has or can build; work is the
// folder for their binaries.
func mounters(ctx context.Context, o options, work string, origin *testorigin.Origin) ([]mounter, error) {
	env := []string{
		"AWS_ACCESS_KEY_ID=" + testorigin.AccessKey, "AWS_SECRET_ACCESS_KEY=" + testorigin.SecretKey,
		"AWS_REGION=" + testorigin.Region, "AWS_EC2_METADATA_DISABLED=true",
		"AWS_CONFIG_FILE=" + os.DevNull, "AWS_SHARED_CREDENTIALS_FILE=" + os.DevNull,
	}
	ours := filepath.Join(work, "penstock-csi")
	fmt.Println("building penstock-csi and installing the peers")
	if err := bench.Build(ctx, ours, "./csi/cmd/penstock-csi"); err != nil {
		return nil, err
	}
	ms := []mounter{{oursName, func(dir string) []string {
		return []string{ours, "mount", "--endpoint", origin.URL(), bucket, dir}
	}, env}}
	if bin, err := bench.Debian(ctx, "s3fs", "s3fs"); err != nil {
		fmt.Println("without s3fs:", err)
	} else {
		ms = append(ms, mounter{s3fsName, func(dir string) []string {
			return []string{
				bin, bucket, dir, "-f", "-o", "ro", "-o", "url=" + origin.URL(), "-o", "use_path_request_style",
				"-o", "endpoint=" + testorigin.Region, "-o", "parallel_count=16", "-o", "multipart_size=8",
			}
		}, append(env, "AWSACCESSKEYID="+testorigin.AccessKey, "AWSSECRETACCESSKEY="+testorigin.SecretKey)})
	}
	if o.quick {
		return ms, nil // the build of rclone takes minutes
	}
	if bin, err := bench.GoInstall(ctx, work, rclone); err != nil {
		fmt.Println("without rclone:", err)
	} else {
		ms = append(ms, mounter{rcloneName, func(dir string) []string {
			return []string{
				bin, "mount", ":s3:" + bucket, dir, "--read-only", "--config", os.DevNull, "--s3-provider", "Other", "--s3-env-auth",
				"--s3-endpoint", origin.URL(), "--s3-region", testorigin.Region, "--vfs-cache-mode", "off",
				"--vfs-read-chunk-streams", "16", "--vfs-read-chunk-size", "8M",
			}
		}, env})
	}
	return ms, nil
}

// start mounts at dir and waits until the big file appears.
func (m mounter) start(ctx context.Context, dir string) (*bench.Server, error) {
	s, err := bench.StartServer(m.argv(dir), m.env)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, mountWithin)
	defer cancel()
	err = s.WaitReady(ctx, func(context.Context) error {
		_, err := os.Stat(filepath.Join(dir, bigFile))
		return err
	})
	if err != nil {
		stop(s, dir)
		return nil, fmt.Errorf("%s: %w", m.name, err)
	}
	return s, nil
}

// stop ends the mount, and removes the mount point that a dead program left.
func stop(s *bench.Server, dir string) {
	s.Stop()
	for _, argv := range [][]string{{"umount", "-l", dir}, {"fusermount3", "-u", "-z", dir}} {
		if !mounted(dir) {
			return
		}
		_ = exec.Command(argv[0], argv[1:]...).Run() // the caller sees a mount that stays
	}
}

// mounted reports whether dir is on another device than the folder it is in.
func mounted(dir string) bool {
	b, err := os.ReadFile("/proc/self/mounts")
	return err == nil && containsMount(string(b), dir)
}
