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
	for args, name := range map[string]string{"--help": "help.txt", "help": "help.txt", "capabilities --help": "help-capabilities.txt"} {
		var out, errs bytes.Buffer
		if code := run(t.Context(), strings.Fields(args), &out, &errs); code != cli.ExitOK || errs.Len() > 0 {
			t.Errorf("%s: exit %d, %q", args, code, &errs)
		}
		clitest.Golden(t, name, out.String())
	}
}

// TestFlags checks that each flag sets its option, and that the old spellings do
// the same and are logged.
func TestFlags(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		line  string
		check func(c *command, o soci.Options) bool
		old   string
	}{
		{"", func(c *command, o soci.Options) bool {
			s := c.snapshotter
			return s.Root == defaultRoot && c.listen.Socket == defaultSocket && c.listen.HTTP == defaultHTTP && c.images == "" && c.containerd == defaultNext &&
				o.Patience == 5*time.Second && s.Linger == 30*time.Second && s.Stall == 5*time.Minute && s.Keep == 30*time.Minute && !s.NoSync && !c.LogsJSON()
		}, ""},
		{"--root /a --address /b --image-service /c --containerd /d --http none", func(c *command, _ soci.Options) bool {
			return c.snapshotter.Root == "/a" && c.listen.Socket == "/b" && c.images == "/c" && c.containerd == "/d" && c.listen.HTTP == ""
		}, ""},
		{"--plain-http --outage 90s --patience 0 --memory 512MB --parallelism 3", func(c *command, o soci.Options) bool {
			return o.PlainHTTP && o.Outage == 90*time.Second && o.Patience == 0 && o.Memory == 512_000_000 && c.snapshotter.Layers == 3 && o.Parallelism == 3
		}, ""},
		{"--memory 512MiB --checkpoint none --no-sync", func(c *command, o soci.Options) bool {
			return o.Memory == 512<<20 && o.CheckpointBytes == -1 && c.snapshotter.NoSync
		}, ""},
		{"--linger 0 --stall -1s --keep -1s --limits depth=7", func(c *command, o soci.Options) bool {
			s := c.snapshotter
			return s.Linger < 0 && s.Stall < 0 && s.Keep < 0 && o.Limits.Depth == 7
		}, ""},
		{"--interfaces lo --interfaces 127.0.0.1", func(_ *command, o soci.Options) bool {
			return slices.Equal(o.Interfaces, []string{"lo", "127.0.0.1"})
		}, ""},
		{"--log-format json --verbose", func(c *command, _ soci.Options) bool { return c.LogsJSON() && c.log.Enabled(t.Context(), -4) }, ""},
		{"--layers 3", func(c *command, _ soci.Options) bool { return c.snapshotter.Layers == 3 }, "--layers is now --parallelism"},
		{"--json", func(c *command, _ soci.Options) bool { return c.LogsJSON() }, "--json is now --log-format=json"},
		{"-json -root /a", func(c *command, _ soci.Options) bool { return c.LogsJSON() && c.snapshotter.Root == "/a" }, "-json is now --log-format=json, -root is now --root"},
	} {
		var log bytes.Buffer
		args := append([]string{"--hosts-dir", "none"}, strings.Fields(c.line)...)
		got, err := parse(args, cli.Streams{Out: io.Discard, Err: &log})
		if err != nil {
			t.Errorf("%q: %v", c.line, err)
			continue
		}
		if !c.check(got, got.puller) {
			t.Errorf("%q: %+v", c.line, got)
		}
		if lines := strings.Count(log.String(), "\n"); (c.old == "") != (lines == 0) || lines > 1 || !strings.Contains(log.String(), c.old) {
			t.Errorf("%q logs %q, want %q", c.line, &log, c.old)
		}
	}
}

func TestCapabilities(t *testing.T) {
	t.Parallel()
	var out, errs bytes.Buffer
	if code := run(t.Context(), []string{"capabilities"}, &out, &errs); code != cli.ExitOK || strings.Count(out.String(), "\n") != 1 || errs.Len() > 0 {
		t.Errorf("exit %d, %q, %q", code, &out, &errs)
	}
	if code := run(t.Context(), []string{"capabilities", "more"}, &out, &errs); code != cli.ExitUsage || !strings.Contains(errs.String(), `"more"`) {
		t.Errorf("exit %d, %q", code, &errs)
	}
}
