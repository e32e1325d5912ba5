package main

import (
	"bytes"
	"io"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/penstock/penstock/internal/cli"
	"github.com/penstock/penstock/internal/cli/clitest"
	"github.com/penstock/penstock/s3stream"
)

func TestHelp(t *testing.T) {
	t.Parallel()
	for args, name := range map[string]string{
		"--help": "help.txt", "help": "help.txt", "get -h": "help-get.txt", "leader --help": "help-leader.txt", "worker -help": "help-worker.txt",
	} {
		var out, errs bytes.Buffer
		if code := run(t.Context(), strings.Fields(args), nil, &out, &errs); code != cli.ExitOK || errs.Len() > 0 {
			t.Errorf("%s: exit %d, %q", args, code, &errs)
		}
		clitest.Golden(t, name, out.String())
	}
}

// flagCase is a command line, a check of its options, and the text that the log
// contains about old spellings, if any.
type flagCase[J job] struct {
	line  string
	check func(j J) bool
	old   string
}

func testFlags[J job](t *testing.T, build func() job, cases []flagCase[J]) {
	t.Helper()
	env := map[string]string{"PENSTOCK_TOKEN": "secret-of-the-test"}
	for _, c := range cases {
		var log bytes.Buffer
		j := build()
		if err := parse(j, strings.Fields(c.line), env, cli.Streams{Out: io.Discard, Err: &log}); err != nil {
			t.Errorf("%q: %v", c.line, err)
			continue
		}
		if !c.check(j.(J)) {
			t.Errorf("%q: %+v", c.line, j)
		}
		if lines := strings.Count(log.String(), "\n"); (c.old == "") != (lines == 0) || lines > 1 || !strings.Contains(log.String(), c.old) {
			t.Errorf("%q logs %q, want %q", c.line, &log, c.old)
		}
	}
}

func TestGetFlags(t *testing.T) {
	t.Parallel()
	testFlags(t, newGet, []flagCase[*getCommand]{
		{"s3://b/k", func(c *getCommand) bool {
			return c.options.Output.Dir == "." && slices.Equal(c.options.URIs, []string{"s3://b/k"})
		}, ""},
		{"s3://b/k -o d s3://b/l --sync", func(c *getCommand) bool {
			return c.options.Output.Dir == "d" && c.options.Output.Sync && len(c.options.URIs) == 2
		}, ""},
		{"--output=d s3://b/k", func(c *getCommand) bool { return c.options.Output.Dir == "d" }, ""},
		{"-f x s3://b/k", func(c *getCommand) bool { return c.options.Output.File == "x" && c.options.Output.Dir == "" }, ""},
		{"-o - s3://b/k", func(c *getCommand) bool { return c.options.Output.Writer != nil }, ""},
		{"s3://b/k --memory 64MB", func(c *getCommand) bool { return c.options.Memory == 64_000_000 }, ""},
		{"s3://b/k --memory 64M", func(c *getCommand) bool { return c.options.Memory == 64<<20 }, ""},
		{"s3://b/k --endpoint http://h --region r --profile p --path-style --ca-bundle f", func(c *getCommand) bool {
			s := c.options.S3
			return s.Endpoint == "http://h" && s.Region == "r" && s.Profile == "p" && s.PathStyle && s.CABundle == "f" && !s.Anonymous
		}, ""},
		{"s3://b/k --sse-customer-key-file f --requester-pays --expected-bucket-owner 123456789012 --anonymous --outage 5s --interfaces lo,127.0.0.1", func(c *getCommand) bool {
			s := c.options.S3
			return s.SSECustomerKeyFile == "f" && s.RequesterPays && s.ExpectedBucketOwner == "123456789012" && s.Anonymous && s.Outage == 5*time.Second && len(s.Interfaces) == 2
		}, ""},
		{"s3://b/k --virtual-host-style --transfer-acceleration --dual-stack", func(c *getCommand) bool {
			s := c.options.S3
			return s.VirtualHostStyle && s.Accelerate && s.DualStack && !s.FIPS && !s.PathStyle
		}, ""},
		{"s3://b/k --fips --region us-east-1", func(c *getCommand) bool { return c.options.S3.FIPS }, ""},
		{"s3://b/k -q --json -v", func(c *getCommand) bool {
			return !c.meter.On() && c.json && c.log.Enabled(t.Context(), slog.LevelDebug)
		}, ""},
		{"s3://b/k --progress plain", func(c *getCommand) bool { return c.meter.On() }, ""},
		// The spellings of the releases before pflag.
		{"-memory 1GiB -path-style -anonymous s3://b/k", func(c *getCommand) bool {
			return c.options.Memory == 1<<30 && c.options.S3.PathStyle && c.options.S3.Anonymous
		}, "-memory is now --memory, -path-style is now --path-style, -anonymous is now --anonymous"},
		{"-json -q -sse-customer-key-file=f s3://b/k", func(c *getCommand) bool { return c.json && c.options.S3.SSECustomerKeyFile == "f" }, "-json is now --json"},
		{"--o d --v s3://b/k", func(c *getCommand) bool { return c.options.Output.Dir == "d" }, "--o is now -o, --v is now -v"},
		{"--force-path-style --no-sign-request s3://b/k", func(c *getCommand) bool {
			return c.options.S3.PathStyle && c.options.S3.Anonymous
		}, "--force-path-style is now --path-style, --no-sign-request is now --anonymous"},
	})
}

func TestLeaderFlags(t *testing.T) {
	t.Parallel()
	testFlags(t, newLeader, []flagCase[*leaderCommand]{
		{"s3://b/k", func(c *leaderCommand) bool {
			o := c.options
			return o.Wait == s3stream.DefaultWait && o.StallTimeout == s3stream.DefaultStall && o.Topology == "auto" && o.Output.Dir == "" && o.Output.File == "" && o.Output.Writer == nil && o.Token != ""
		}, ""},
		{"--workers 8 --wait 1m --listen :1 --topology tree:3 --digest sha256 --stall 5s --block 64KB s3://b/k -o d", func(c *leaderCommand) bool {
			o := c.options
			return o.Workers == 8 && o.Wait == time.Minute && o.Listen == ":1" && o.Topology == "tree:3" && o.Digest == "sha256" &&
				o.StallTimeout == 5*time.Second && o.BlockBytes == 64_000 && o.Output.Dir == "d"
		}, ""},
		{"--insecure s3://b/k", func(c *leaderCommand) bool { return c.options.Insecure }, ""},
		{"-workers 8 -block=64KiB s3://b/k", func(c *leaderCommand) bool {
			return c.options.Workers == 8 && c.options.BlockBytes == 64<<10
		}, "-workers is now --workers, -block is now --block"},
	})
}

func TestWorkerFlags(t *testing.T) {
	t.Parallel()
	testFlags(t, newWorker, []flagCase[*workerCommand]{
		{"--leader h:1 -o d", func(c *workerCommand) bool {
			return c.options.Leader == "h:1" && c.options.Output.Dir == "d" && c.options.Wait == s3stream.DefaultWait
		}, ""},
		{"--leader h --listen :2 --advertise a:3 --name n --rank 4 --wait 3s --memory 16MiB -o -", func(c *workerCommand) bool {
			o := c.options
			return o.Listen == ":2" && o.Advertise == "a:3" && o.Name == "n" && o.Rank == 4 && o.Wait == 3*time.Second && o.Memory == 16<<20 && o.Output.Writer != nil
		}, ""},
		{"-leader h:1 -insecure -o d", func(c *workerCommand) bool {
			return c.options.Leader == "h:1" && c.options.Insecure
		}, "-leader is now --leader, -insecure is now --insecure"},
	})
}
