package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/penstock/penstock/s3stream"
)

// command is a parsed command line.
type command struct {
	name   string
	get    s3stream.GetOptions
	leader s3stream.LeaderOptions
	worker s3stream.WorkerOptions

	uris           []string
	json           bool
	meter          *meter
	stdout, stderr io.Writer
}

var errHelp = errors.New("help was printed")

const usage = `penstock-cast reads S3 objects once and gives them to one node or to all nodes of a job.

  penstock-cast get    [flags] s3://bucket/key...    read to this node
  penstock-cast leader [flags] s3://bucket/key...    read, and send to the workers
  penstock-cast worker [flags]                       receive from a leader
  penstock-cast version                              print version and commit

A URI that ends in a slash, or has no key, means all objects below it.
penstock-cast COMMAND -h lists the flags of a command.
`

// common are the flags that every subcommand has.
type common struct {
	out, file string
	memory    size
	json      bool
	quiet     bool
	verbose   bool
	sync      bool
}

func (f *common) define(fs *flag.FlagSet, defaultOut, outHelp string) {
	fs.StringVar(&f.out, "o", defaultOut, outHelp)
	fs.StringVar(&f.file, "f", "", "write the only object to this `FILE`")
	fs.Var(&f.memory, "memory", "`BYTES` of buffers, for example 256MiB; 0 is a quarter of the machine's, within limits")
	fs.BoolVar(&f.json, "json", false, "print the result as JSON on standard output")
	fs.BoolVar(&f.quiet, "q", false, "show no progress")
	fs.BoolVar(&f.verbose, "v", false, "log every step with peers on standard error, not only warnings")
	fs.BoolVar(&f.sync, "sync", false, "flush each file to the disk before it appears, so that a power cut leaves no empty one")
}

// output turns -o and -f into an Output.
func (f *common) output(stdout io.Writer) (o s3stream.Output, err error) {
	o.File, o.Sync = f.file, f.sync
	switch {
	case f.out == "-" && f.json:
		return o, errors.New("-json and -o - both want standard output: leave one out")
	case f.out == "-":
		o.Writer = stdout
	default:
		o.Dir = f.out
	}
	return o, nil
}

func (c *command) defineS3(fs *flag.FlagSet, s *s3stream.S3) {
	s.Log = slog.New(slog.NewTextHandler(c.stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	fs.DurationVar(&s.Outage, "outage", time.Minute, "how long an outage of the store is survived")
	fs.StringVar(&s.Endpoint, "endpoint", "", "`URL` of the store; default AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL, or AWS")
	fs.StringVar(&s.Region, "region", "", "`REGION` of the buckets; default AWS_REGION or the profile's")
	fs.StringVar(&s.Profile, "profile", "", "`PROFILE` of the shared configuration files")
	fs.BoolVar(&s.PathStyle, "path-style", false, "put the bucket into the path; the default for endpoints that are not Amazon's")
	fs.StringVar(&s.CABundle, "ca-bundle", "", "PEM `FILE` of authorities to trust in addition to the system's; default AWS_CA_BUNDLE")
	fs.StringVar(&s.SSECustomerKeyFile, "sse-customer-key-file", "", "`FILE` with the 32-byte key of objects that are encrypted with it (SSE-C): raw, base64 or hexadecimal")
	fs.BoolVar(&s.Anonymous, "anonymous", false, "send no credentials")
	fs.BoolVar(&s.RequesterPays, "requester-pays", false, "agree to pay for the requests")
	fs.StringVar(&s.ExpectedBucketOwner, "expected-bucket-owner", "", "fail if the bucket belongs to another `ACCOUNT`")
}

// parse reads the command line and the environment.
func parse(args []string, env map[string]string, stdout, stderr io.Writer) (*command, error) {
	if len(args) == 0 {
		fmt.Fprint(stderr, usage)
		return nil, errors.New("no command: give get, leader or worker")
	}
	c := &command{name: args[0], stdout: stdout, stderr: stderr}
	fs := flag.NewFlagSet("penstock-cast "+c.name, flag.ContinueOnError)
	fs.SetOutput(io.Discard) // the caller prints the one line that counts
	var f common
	var finish func() error
	switch c.name {
	case "get":
		finish = c.defineGet(fs, &f)
	case "leader":
		finish = c.defineLeader(fs, &f, env)
	case "worker":
		finish = c.defineWorker(fs, &f, env)
	case "-h", "-help", "--help", "help":
		fmt.Fprint(stdout, usage)
		return nil, errHelp
	default:
		return nil, fmt.Errorf("unknown command %q: give get, leader or worker", c.name)
	}
	err := c.parseFlags(fs, args[1:])
	if errors.Is(err, flag.ErrHelp) {
		fs.SetOutput(stdout)
		fmt.Fprintf(stdout, "flags of penstock-cast %s:\n", c.name)
		fs.PrintDefaults()
		return nil, errHelp
	}
	if err == nil {
		c.json = f.json
		c.meter = newMeter(stderr, f.quiet)
		err = finish()
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.name, err)
	}
	return c, nil
}

// parseFlags reads flags before, between and after the URIs, and keeps the URIs in c.uris.
func (c *command) parseFlags(fs *flag.FlagSet, args []string) error {
	for {
		if err := fs.Parse(args); err != nil {
			return err
		}
		rest := fs.Args()
		if len(rest) == 0 {
			return nil
		}
		if n := len(args) - len(rest); n > 0 && args[n-1] == "--" {
			c.uris = append(c.uris, rest...)
			return nil
		}
		c.uris = append(c.uris, rest[0])
		args = rest[1:]
	}
}

func (c *command) defineGet(fs *flag.FlagSet, f *common) func() error {
	f.define(fs, "", "`DIR` to write the files to, or - for standard output; default the current directory")
	c.defineS3(fs, &c.get.S3)
	return func() (err error) {
		if f.out == "" && f.file == "" {
			f.out = "."
		}
		c.get.URIs, c.get.MemoryBytes, c.get.Progress, c.get.Log = c.uris, int64(f.memory), c.meter.show, c.log(f)
		if c.get.Output, err = f.output(c.stdout); err != nil {
			return err
		}
		return c.get.Validate()
	}
}

func (c *command) defineLeader(fs *flag.FlagSet, f *common, env map[string]string) func() error {
	o := &c.leader
	f.define(fs, "", "`DIR` for the leader's own copy, or - for standard output; default none")
	c.defineS3(fs, &o.S3)
	fs.IntVar(&o.Workers, "workers", 0, "`NUMBER` of workers to wait for; default from the launcher, else those that join within -wait")
	fs.DurationVar(&o.Wait, "wait", s3stream.DefaultWait, "how long the workers may take to join")
	fs.StringVar(&o.Listen, "listen", "", "`ADDRESS` for workers; default the launcher's port or :7117")
	fs.StringVar(&o.Topology, "topology", "auto", "auto, chain, tree or tree:`K`")
	fs.BoolVar(&o.Insecure, "insecure", false, "accept workers without a token from other machines: the network is trusted")
	fs.StringVar(&o.Digest, "digest", "", "sha256: prove objects against members that alter them on purpose, for about 0.5 CPU-seconds per GB and node")
	fs.DurationVar(&o.StallTimeout, "stall", s3stream.DefaultStall, "how long a peer may be silent")
	var block size
	fs.Var(&block, "block", "`BYTES` of a block, the unit that is passed on; default 1MiB")
	return func() error {
		o.URIs, o.MemoryBytes, o.BlockBytes, o.Progress, o.Log = c.uris, int64(f.memory), int64(block), c.meter.show, c.log(f)
		place, err := s3stream.PlacementFromEnv(env)
		if err == nil {
			err = place.FillLeader(o)
		}
		if err == nil {
			o.Token, err = token(env)
		}
		if err == nil {
			o.Output, err = f.output(c.stdout)
		}
		if err != nil {
			return err
		}
		return o.Validate()
	}
}

func (c *command) defineWorker(fs *flag.FlagSet, f *common, env map[string]string) func() error {
	o := &c.worker
	f.define(fs, "", "`DIR` to write the files to, or - for standard output")
	fs.StringVar(&o.Leader, "leader", "", "`HOST:PORT` of the leader; default from the launcher or PENSTOCK_LEADER")
	fs.StringVar(&o.Listen, "listen", "", "`ADDRESS` for this worker's children; default a free port")
	fs.StringVar(&o.Advertise, "advertise", "", "`HOST[:PORT]` that others dial to reach -listen; default as the leader sees it")
	fs.StringVar(&o.Name, "name", "", "`NAME` in tables and messages; default the host name")
	fs.IntVar(&o.Rank, "rank", 0, "place in the chain or tree, from 1; default from the launcher")
	fs.BoolVar(&o.Insecure, "insecure", false, "serve other workers without a token: the network is trusted")
	fs.DurationVar(&o.Wait, "wait", s3stream.DefaultWait, "how long the leader may take to appear")
	return func() error {
		if len(c.uris) > 0 {
			return fmt.Errorf("unexpected argument %q: the leader says what to receive", c.uris[0])
		}
		if f.out == "" && f.file == "" {
			return errors.New("no output: give -o DIR, -f FILE, or -o - for standard output")
		}
		o.MemoryBytes, o.Progress, o.Log = int64(f.memory), c.meter.show, c.log(f)
		place, err := s3stream.PlacementFromEnv(env)
		if err == nil {
			err = place.FillWorker(o)
		}
		if err == nil {
			o.Token, err = token(env)
		}
		if err == nil {
			o.Output, err = f.output(c.stdout)
		}
		if err != nil {
			return err
		}
		return o.Validate()
	}
}

func (c *command) log(f *common) *slog.Logger {
	level := slog.LevelWarn
	if f.verbose {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(c.stderr, &slog.HandlerOptions{Level: level}))
}

// token reads the job's secret. It never comes from the command line, which
// everybody on the machine can read.
func token(env map[string]string) (string, error) {
	file := env["PENSTOCK_TOKEN_FILE"]
	if file == "" {
		return env["PENSTOCK_TOKEN"], nil
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("PENSTOCK_TOKEN_FILE: %w", err)
	}
	t := strings.TrimSpace(string(b))
	if t == "" {
		return "", fmt.Errorf("PENSTOCK_TOKEN_FILE: %s is empty", file)
	}
	return t, nil
}

// size is a number of bytes with an optional unit.
type size int64

func (s *size) String() string { return strconv.FormatInt(int64(*s), 10) }

// Set reads 1048576, 1MiB, 1M or 1MB: binary units with i or without B,
// decimal ones with B alone.
func (s *size) Set(v string) error {
	digits := strings.TrimRight(v, "KMGTiB")
	unit := v[len(digits):]
	n, err := strconv.ParseInt(digits, 10, 64)
	power, ok := map[string]struct {
		base int64
		exp  int
	}{
		"": {1, 0}, "B": {1, 0},
		"K": {1024, 1}, "KiB": {1024, 1}, "KB": {1000, 1},
		"M": {1024, 2}, "MiB": {1024, 2}, "MB": {1000, 2},
		"G": {1024, 3}, "GiB": {1024, 3}, "GB": {1000, 3},
		"T": {1024, 4}, "TiB": {1024, 4}, "TB": {1000, 4},
	}[unit]
	if err != nil || !ok || n < 0 {
		return errors.New("want a number of bytes such as 1048576, 64KiB or 1GiB")
	}
	for range power.exp {
		if n > 1<<62/power.base {
			return errors.New("too large")
		}
		n *= power.base
	}
	*s = size(n)
	return nil
}
