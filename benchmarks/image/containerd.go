package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/penstock/penstock/benchmarks/internal/bench"
)

// containerdVersion is the peer's.
const containerdVersion = "v2.4.2"

// containerds returns the folder of containerd and ctr, which it installs unless given.
func containerds(ctx context.Context, given, dir string) (string, error) {
	if given != "" {
		return given, nil
	}
	for _, cmd := range []string{"containerd", "ctr"} {
		c := exec.CommandContext(ctx, "go", "install", "-tags", "no_btrfs,no_cri,no_zfs,no_devmapper",
			"github.com/containerd/containerd/v2/cmd/"+cmd+"@"+containerdVersion)
		c.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOBIN="+dir)
		if log, err := c.CombinedOutput(); err != nil {
			return "", fmt.Errorf("go install %s: %w\n%s", cmd, err, log)
		}
	}
	return dir, nil
}

// containerdConfig is what its documentation suggests for large images: layers by
// ranges, several unpacked at once.
const containerdConfig = `version = 3
root = %[1]q
state = %[2]q
disabled_plugins = ["io.containerd.nri.v1.nri"]
[grpc]
  address = %[3]q
[ttrpc]
  address = %[4]q
[plugins."io.containerd.transfer.v1.local"]
  max_concurrent_downloads = 10
  max_concurrent_unpacks = 6
  concurrent_layer_fetch_buffer = 8388608
`

// runContainerd is the role of a contestant: a daemon with an empty root pulls once.
// Seconds are the pull's alone; the CPU of the start, some 50 ms, is in.
func runContainerd(ctx context.Context, args []string) (err error) {
	fs := flag.NewFlagSet("containerd", flag.ContinueOnError)
	bin := fs.String("bin", "", "folder of the programs")
	host := fs.String("registry", "", "host:port")
	dir := fs.String("dir", "", "root of the daemon")
	if err := fs.Parse(args); err != nil {
		return err
	}
	at := func(name string) string { return filepath.Join(*dir, name) }
	if err := os.MkdirAll(*dir, 0o700); err != nil {
		return err
	}
	config := fmt.Sprintf(containerdConfig, at("root"), at("state"), at("sock"), at("ttrpc"))
	if err := os.WriteFile(at("config.toml"), []byte(config), 0o600); err != nil {
		return err
	}
	daemon := exec.CommandContext(ctx, filepath.Join(*bin, "containerd"), "-c", at("config.toml"))
	daemon.Cancel = func() error { return daemon.Process.Signal(syscall.SIGTERM) }
	if err := daemon.Start(); err != nil {
		return err
	}
	defer func() {
		_ = daemon.Process.Signal(syscall.SIGTERM)
		_ = daemon.Wait() // ended by the signal
	}()
	ctr := func(args ...string) ([]byte, error) {
		return exec.CommandContext(ctx, filepath.Join(*bin, "ctr"), append([]string{"-a", at("sock")}, args...)...).CombinedOutput()
	}
	if err := answers(ctx, func() error { _, err := ctr("version"); return err }); err != nil {
		return err
	}
	start := time.Now()
	log, err := ctr("images", "pull", "--plain-http", *host+"/"+repo+":"+tag)
	r := bench.Report{Seconds: time.Since(start).Seconds(), Outcome: bench.OutcomeOK}
	if err != nil {
		r.Outcome, r.Error = bench.OutcomeError, fmt.Sprintf("%v: %.300s", err, log)
	}
	return errors.Join(err, bench.PrintReport(os.Stdout, r))
}

// answers waits until a daemon does.
func answers(ctx context.Context, ask func() error) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second) // it takes under one
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for ask() != nil {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("containerd does not answer: %w", ctx.Err())
		}
	}
	return nil
}
