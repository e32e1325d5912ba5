package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/penstock/penstock/benchmarks/internal/bench"
)

// containerdConfig follows containerd's documentation for large images: layers by
// ranges, and several unpacked at once.
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
[[plugins."io.containerd.transfer.v1.local".unpack_config]]
  platform = "linux"
  snapshotter = %[5]q
`

// proxyConfig adds a snapshotter behind a socket.
const proxyConfig = `[proxy_plugins.%[1]s]
  type = "snapshot"
  address = %[2]q
  [proxy_plugins.%[1]s.exports]
    enable_remote_snapshot_annotations = "true"
`

// sociConfig is the example of SOCI's page on its parallel mode, with igzip.
const sociConfig = `no_prometheus = true
[content_store]
  type = "containerd"
  containerd_address = %[1]q
[pull_modes.soci_v1]
  enable = false
[pull_modes.soci_v2]
  enable = false
[pull_modes.parallel_pull_unpack]
  enable = true
  max_concurrent_downloads = 50
  max_concurrent_downloads_per_image = 10
  concurrent_download_chunk_size = "8mb"
  max_concurrent_unpacks = 20
  max_concurrent_unpacks_per_image = 10
  discard_unpacked_layers = true
  [pull_modes.parallel_pull_unpack.decompress_streams.gzip]
    path = %[2]q
    args = ["-d", "-c"]
`

// Snapshotters that containerd is measured with.
const (
	snapOverlay  = "overlayfs"
	snapSOCI     = "soci"
	snapPenstock = "penstock"
)

// daemons are the daemons of one run: a containerd with an empty root, and perhaps
// a snapshotter.
type daemons struct {
	containerd, ctr, ref, dir string
	snapshotter, program      string // program: of the snapshotter
	igzip                     string
}

// runContainerd is the role of a contestant: daemons with empty roots pull once.
// Seconds, CPU and bytes are for the pull alone, without the start.
func runContainerd(ctx context.Context, args []string) (err error) {
	var d daemons
	fs := flag.NewFlagSet("containerd", flag.ContinueOnError)
	fs.StringVar(&d.containerd, "containerd", "", "program")
	fs.StringVar(&d.ctr, "ctr", "", "program")
	fs.StringVar(&d.ref, "ref", "", "what to pull")
	fs.StringVar(&d.dir, "dir", "", "roots of the daemons")
	fs.StringVar(&d.snapshotter, "snapshotter", snapOverlay, "overlayfs, soci or penstock")
	fs.StringVar(&d.program, "program", "", "the snapshotter's program")
	fs.StringVar(&d.igzip, "igzip", "", "SOCI's decompressor")
	if err := fs.Parse(args); err != nil {
		return err
	}
	r, err := d.run(ctx)
	if err != nil {
		r.Outcome, r.Error = bench.OutcomeError, err.Error()
	}
	return errors.Join(err, bench.PrintReport(os.Stdout, r))
}

func (d *daemons) at(name string) string { return filepath.Join(d.dir, name) }

func (d *daemons) run(ctx context.Context) (r bench.Report, err error) {
	var all []*bench.Server
	defer func() {
		for _, s := range all {
			s.Stop()
		}
	}()
	start := func(ready func(context.Context) error, argv ...string) error {
		s, err := bench.StartServer(argv, nil)
		if err != nil {
			return err
		}
		all = append([]*bench.Server{s}, all...)                // the last server is stopped first
		ctx, cancel := context.WithTimeout(ctx, 20*time.Second) // they take less than one second
		defer cancel()
		return s.WaitReady(ctx, ready)
	}
	// The order does not matter, because SOCI and containerd connect to each other
	// at the first request.
	if argv, err := d.snapshotterArgv(); err != nil {
		return r, err
	} else if argv != nil {
		if err := start(func(context.Context) error { return connects(d.at("sn.sock")) }, argv...); err != nil {
			return r, err
		}
	}
	if err := os.WriteFile(d.at("config.toml"), []byte(d.config()), 0o600); err != nil {
		return r, err
	}
	err = start(func(ctx context.Context) error { return d.command(ctx, "version").Run() }, d.containerd, "-c", d.at("config.toml"))
	if err != nil {
		return r, err
	}
	return d.pull(ctx, all)
}

// pull measures one pull.
func (d *daemons) pull(ctx context.Context, all []*bench.Server) (r bench.Report, err error) {
	used := func() (u bench.Usage) {
		for _, s := range all {
			v := bench.UsageOf(s.PID())
			u.CPU += v.CPU
			u.Written += v.Written
		}
		return u
	}
	m, err := startMeter(d.dir)
	if err != nil {
		return r, err
	}
	before, start := used(), time.Now()
	cmd := d.command(ctx, "images", "pull", "--plain-http", "--snapshotter", d.snapshotter, d.ref)
	log, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("ctr images pull: %w: %.500s", err, log)
	}
	err = errors.Join(err, flush(d.dir))
	r = bench.Report{Seconds: time.Since(start).Seconds(), Outcome: bench.OutcomeOK}
	after := used()
	left := m.stop()
	cpu := after.CPU - before.CPU
	if cmd.ProcessState != nil {
		cpu += cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	}
	r.Extra = map[string]float64{
		extraCPU: cpu.Seconds(), extraRSS: float64(m.rss), extraWritten: float64(after.Written - before.Written),
		extraPeak: float64(m.peak), extraLeft: float64(left),
	}
	if err == nil && d.snapshotter != snapOverlay {
		err = d.remote(ctx)
	}
	return r, err
}

// remote checks that the layers came through the snapshotter. Layers that came
// through containerd would be in its content store.
func (d *daemons) remote(ctx context.Context) error {
	out, err := d.command(ctx, "content", "ls", "--quiet").Output()
	if err != nil {
		return fmt.Errorf("ctr content ls: %w", err)
	}
	const most = 3 // index, manifest, config
	if n := strings.Count(string(out), "\n"); n > most {
		return fmt.Errorf("containerd has fetched layers itself: %d blobs", n)
	}
	return nil
}

func (d *daemons) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, d.ctr, append([]string{"-a", d.at("sock")}, args...)...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	return cmd
}

func (d *daemons) config() string {
	c := fmt.Sprintf(containerdConfig, d.at("root"), d.at("state"), d.at("sock"), d.at("ttrpc"), d.snapshotter)
	if d.snapshotter != snapOverlay {
		c += fmt.Sprintf(proxyConfig, d.snapshotter, d.at("sn.sock"))
	}
	return c
}

// snapshotterArgv is the command of the snapshotter, or nil for the built-in one.
func (d *daemons) snapshotterArgv() ([]string, error) {
	switch d.snapshotter {
	case snapOverlay:
		return nil, nil
	case snapPenstock:
		return []string{d.program, "--root", d.at("sn"), "--address", d.at("sn.sock"), "--http", "none", "--hosts-dir", "none"}, nil
	case snapSOCI:
		config := fmt.Sprintf(sociConfig, d.at("sock"), d.igzip)
		if err := os.WriteFile(d.at("soci.toml"), []byte(config), 0o600); err != nil {
			return nil, err
		}
		return []string{d.program, "--root", d.at("sn"), "--address", d.at("sn.sock"), "--config", d.at("soci.toml"), "--log-level", "error"}, nil
	}
	return nil, fmt.Errorf("no snapshotter %q is known", d.snapshotter)
}

func connects(socket string) error {
	c, err := net.Dial("unix", socket)
	if err != nil {
		return err
	}
	return c.Close()
}
