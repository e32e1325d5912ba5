//go:build linux

package main

import (
	"bytes"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/penstock/penstock/csi"
	"github.com/penstock/penstock/internal/cli"
	"github.com/penstock/penstock/internal/cli/clitest"
)

func TestHelp(t *testing.T) {
	for args, name := range map[string]string{
		"--help": "help.txt", "help": "help.txt", "node -h": "help-node.txt", "mount --help": "help-mount.txt", "probe -help": "help-probe.txt",
	} {
		for _, node := range []string{"", "n1"} { // the help must not depend on the environment
			t.Setenv("NODE_NAME", node)
			var out, errs bytes.Buffer
			if code := run(t.Context(), strings.Fields(args), &out, &errs); code != cli.ExitOK || errs.Len() > 0 {
				t.Errorf("%s: exit %d, %q", args, code, &errs)
			}
			clitest.Golden(t, name, out.String())
		}
	}
}

// TestMountFlags wants each flag to reach its option, and the old spellings to
// do the same and to be logged.
func TestMountFlags(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		line  string
		check func(c *mountCommand, o csi.MountOptions) bool
		old   string
	}{
		{"", func(_ *mountCommand, o csi.MountOptions) bool {
			return o.Bucket == "b" && o.Dir == "/mnt" && o.S3.Outage == time.Minute && o.Memory == 0 && o.MetadataTTL == 0 && o.FileMode == 0
		}, ""},
		{"--allow-empty --allow-other --uid 1 --gid 2 --file-mode 400 --dir-mode 0500", func(_ *mountCommand, o csi.MountOptions) bool {
			return o.AllowEmpty && o.AllowOther && o.UID == 1 && o.GID == 2 && o.FileMode == 0o400 && o.DirMode == 0o500
		}, ""},
		{"--metadata-ttl 60 --memory 64MB", func(_ *mountCommand, o csi.MountOptions) bool {
			return o.MetadataTTL == time.Minute && o.Memory == 64_000_000
		}, ""},
		{"--endpoint http://h --region r --anonymous --path-style --requester-pays --expected-bucket-owner 123456789012 --outage 2s --ca-bundle f", func(_ *mountCommand, o csi.MountOptions) bool {
			s := o.S3
			return s.Endpoint == "http://h" && s.Region == "r" && s.Anonymous && s.PathStyle && s.RequesterPays &&
				s.ExpectedBucketOwner == "123456789012" && s.Outage == 2*time.Second && s.CABundle == "f"
		}, ""},
		{"--sse-customer-key-file k --interfaces lo,127.0.0.1", func(_ *mountCommand, o csi.MountOptions) bool {
			return o.S3.SSECustomerKeyFile == "k" && len(o.S3.Interfaces) == 2
		}, ""},
		{"--virtual-host-style --dual-stack --fips", func(_ *mountCommand, o csi.MountOptions) bool {
			return o.S3.VirtualHostStyle && o.S3.DualStack && o.S3.FIPS && !o.S3.Accelerate
		}, ""},
		{"--transfer-acceleration", func(_ *mountCommand, o csi.MountOptions) bool { return o.S3.Accelerate }, ""},
		{"--read-only=true", func(c *mountCommand, _ csi.MountOptions) bool {
			log := c.Logger(io.Discard)
			return log.Enabled(t.Context(), slog.LevelWarn) && !log.Enabled(t.Context(), slog.LevelInfo)
		}, ""},
		{"--log-format=json", func(c *mountCommand, _ csi.MountOptions) bool {
			return c.Logger(io.Discard).Enabled(t.Context(), slog.LevelInfo)
		}, ""},
		{"--log-format json --log-level error", func(c *mountCommand, _ csi.MountOptions) bool {
			return !c.Logger(io.Discard).Enabled(t.Context(), slog.LevelWarn)
		}, ""},
		// The spellings of the releases before pflag.
		{"--json", func(c *mountCommand, _ csi.MountOptions) bool { return c.LogsJSON() }, "--json is now --log-format=json"},
		{"--force-path-style --no-sign-request", func(_ *mountCommand, o csi.MountOptions) bool {
			return o.S3.PathStyle && o.S3.Anonymous
		}, "--force-path-style is now --path-style, --no-sign-request is now --anonymous"},
		{"-memory 64MiB -region=r --v", func(_ *mountCommand, o csi.MountOptions) bool {
			return o.Memory == 64<<20 && o.S3.Region == "r"
		}, "-memory is now --memory, -region is now --region, --v is now -v"},
	} {
		got, err := parseMount(append(strings.Fields(c.line), "b", "/mnt"), discard)
		if err != nil {
			t.Errorf("%q: %v", c.line, err)
			continue
		}
		if !c.check(got, got.options) {
			t.Errorf("%q: %+v", c.line, got.options)
		}
		var log bytes.Buffer
		got.Logger(&log)
		if lines := strings.Count(log.String(), "\n"); (c.old == "") != (lines == 0) || lines > 1 || !strings.Contains(log.String(), c.old) {
			t.Errorf("%q logs %q, want %q", c.line, &log, c.old)
		}
	}
}

func TestNodeFlags(t *testing.T) {
	t.Setenv("NODE_NAME", "from-environment")
	for line, check := range map[string]func(c *nodeCommand, o csi.Options) bool{
		"": func(_ *nodeCommand, o csi.Options) bool {
			return o.NodeID == "from-environment" && o.Name == csi.DefaultDriverName && o.KubeletDir == csi.DefaultKubeletDir && o.S3.Outage == time.Minute
		},
		"--endpoint unix:///x --node-id n --driver-name d --kubelet-dir /k --state-dir /s --memory 256MiB --max-volumes 3": func(_ *nodeCommand, o csi.Options) bool {
			return o.Endpoint == "unix:///x" && o.NodeID == "n" && o.Name == "d" && o.KubeletDir == "/k" && o.StateDir == "/s" && o.Memory == 256<<20 && o.MaxVolumes == 3
		},
		"--fips": func(_ *nodeCommand, o csi.Options) bool { return o.S3.FIPS },
		"--s3-endpoint http://h --interfaces lo": func(_ *nodeCommand, o csi.Options) bool {
			return o.S3.Endpoint == "http://h" && len(o.S3.Interfaces) == 1
		},
		"--json -v": func(c *nodeCommand, o csi.Options) bool {
			return c.LogsJSON() && o.Log.Enabled(t.Context(), slog.LevelDebug)
		},
	} {
		c, err := parseNode(strings.Fields(line), discard)
		if err != nil || !check(c, c.options) {
			t.Errorf("%q: %+v, %v", line, c, err)
		}
	}
}
