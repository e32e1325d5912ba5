package main

import (
	"bytes"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/penstock/penstock/internal/cli"
	"github.com/penstock/penstock/internal/cli/clitest"
	"github.com/penstock/penstock/soci"
)

func TestHelp(t *testing.T) {
	t.Parallel()
	for args, name := range map[string]string{"--help": "help.txt", "help": "help.txt", "prefetch -h": "help-prefetch.txt", "ztoc --help": "help-ztoc.txt"} {
		var out, errs bytes.Buffer
		if code := run(t.Context(), strings.Fields(args), &out, &errs); code != cli.ExitOK || errs.Len() > 0 {
			t.Errorf("%s: exit %d, %q", args, code, &errs)
		}
		clitest.Golden(t, name, out.String())
	}
}

// TestPullFlags checks that each flag sets its option, before and after the
// reference, and that the old spellings do the same and are logged.
func TestPullFlags(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		line  string
		check func(c *pullCommand, o soci.Options) bool
		old   string
	}{
		{"--root d x", func(c *pullCommand, o soci.Options) bool {
			return c.root == "d" && c.reference == "x" && o.KeepFailed && o.Memory == 0 && o.Outage == 0 && o.HostsDir == "" && o.Progress != nil
		}, ""},
		{"x --layers d", func(c *pullCommand, _ soci.Options) bool { return c.layers == "d" && c.reference == "x" }, ""},
		{"--config - x", func(c *pullCommand, _ soci.Options) bool { return c.config == "-" }, ""},
		{"x --root d --memory 64MB", func(_ *pullCommand, o soci.Options) bool { return o.Memory == 64_000_000 }, ""},
		{"x --root d --memory=64MiB", func(_ *pullCommand, o soci.Options) bool { return o.Memory == 64<<20 }, ""},
		{"x --root d --memory 64M", func(_ *pullCommand, o soci.Options) bool { return o.Memory == 64<<20 }, ""},
		{"x --root d --checkpoint none", func(_ *pullCommand, o soci.Options) bool { return o.CheckpointBytes == -1 }, ""},
		{"x --root d --checkpoint 1GiB", func(_ *pullCommand, o soci.Options) bool { return o.CheckpointBytes == 1<<30 }, ""},
		{"x --root d --limits size=2TiB,ratio=none", func(_ *pullCommand, o soci.Options) bool {
			return o.Limits == soci.Limits{TotalSize: 2 << 40, Ratio: -1}
		}, ""},
		{"x --root d --platform linux/arm64 --plain-http --sync --keep-failed=false", func(_ *pullCommand, o soci.Options) bool {
			return o.Platform == "linux/arm64" && o.PlainHTTP && o.Sync && !o.KeepFailed
		}, ""},
		{"x --root d --hosts-dir none --outage -1s", func(_ *pullCommand, o soci.Options) bool { return o.HostsDir == "none" && o.Outage == -time.Second }, ""},
		{"x --root d --interfaces lo,127.0.0.1", func(_ *pullCommand, o soci.Options) bool {
			return slices.Equal(o.Interfaces, []string{"lo", "127.0.0.1"})
		}, ""},
		{"x --root d --json -q", func(c *pullCommand, o soci.Options) bool { return c.json && o.Progress == nil }, ""},
		{"x --root d --progress none", func(_ *pullCommand, o soci.Options) bool { return o.Progress == nil }, ""},
		{"x --root d --progress=plain -v", func(_ *pullCommand, o soci.Options) bool { return o.Progress != nil && o.Log.Enabled(t.Context(), -4) }, ""},
		{"--root d -- x", func(c *pullCommand, _ soci.Options) bool { return c.reference == "x" }, ""},
		{"-root d -memory=1GiB x", func(c *pullCommand, o soci.Options) bool { return c.root == "d" && o.Memory == 1<<30 }, "-root is now --root, -memory is now --memory"},
		{"--root d --progress=false x", func(_ *pullCommand, o soci.Options) bool { return o.Progress == nil }, "--progress=false is now --progress=none"},
		{"--root d -progress=false x", func(_ *pullCommand, o soci.Options) bool { return o.Progress == nil }, "-progress is now --progress=none"},
	} {
		var log bytes.Buffer
		got, err := parsePull(strings.Fields(c.line), cli.Streams{Out: io.Discard, Err: &log})
		if err != nil {
			t.Errorf("%q: %v", c.line, err)
			continue
		}
		if !c.check(got, got.options) {
			t.Errorf("%q: %+v", c.line, got)
		}
		if lines := strings.Count(log.String(), "\n"); (c.old == "") != (lines == 0) || lines > 1 || !strings.Contains(log.String(), c.old) {
			t.Errorf("%q logs %q, want %q", c.line, &log, c.old)
		}
	}
}

func TestPrefetchFlags(t *testing.T) {
	t.Parallel()
	socket := t.TempDir()
	for line, check := range map[string]func(c *prefetchCommand) bool{
		"x": func(c *prefetchCommand) bool {
			return c.namespace == "k8s.io" && c.snapshotter == "penstock" && c.rate == 0 && c.hostsDir == defaultHosts && c.status == "http://127.0.0.1:9437/pulls"
		},
		"x --rate 200MB y --json": func(c *prefetchCommand) bool { return c.rate == 200_000_000 && c.json && len(c.references) == 2 },
		"--status none --hosts-dir none --namespace n --snapshotter s x": func(c *prefetchCommand) bool {
			return c.status == "" && c.hostsDir == "" && c.namespace == "n" && c.snapshotter == "s"
		},
	} {
		c, err := parsePrefetch(append(strings.Fields(line), "--containerd", socket), cli.Streams{Out: io.Discard, Err: io.Discard})
		if err != nil || !check(c) {
			t.Errorf("%q: %+v, %v", line, c, err)
		}
	}
}
