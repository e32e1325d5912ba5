package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"

	"github.com/penstock/penstock/internal/cli"
	"github.com/penstock/penstock/s3stream"
)

// command has the flags and the state that every subcommand has.
type command struct {
	*cli.Command
	out, file string
	memory    int64
	sync      bool
	json      bool

	uris  []string
	log   *slog.Logger
	meter *cli.Meter
	done  int64 // bytes
}

func (c *command) base() *command { return c }

// outputFlags adds the flags of files and memory.
func (c *command) outputFlags(outHelp, memoryDefault string) {
	f := c.Group("Output flags")
	f.StringVarP(&c.out, "output", "o", "", outHelp)
	f.StringVarP(&c.file, "file", "f", "", "`FILE` that receives the only object")
	f.BoolVar(&c.sync, "sync", false, "flush each file to the disk before it appears, so that a power cut leaves no empty file")
	cli.Bytes(f, &c.memory, "memory", "`SIZE` of all buffers, for example 256MiB (default "+memoryDefault+")")
}

// commonFlags adds the flags of results and logs.
func (c *command) commonFlags() {
	c.OutputFlags(&c.json)
	c.LogFlags(slog.LevelWarn)
}

// s3Flags adds the flags of the S3 store.
func (c *command) s3Flags(o *s3stream.S3) {
	c.S3Flags("endpoint", cli.S3{
		Endpoint: &o.Endpoint, Region: &o.Region, Profile: &o.Profile, PathStyle: &o.PathStyle, CABundle: &o.CABundle,
		VirtualHostStyle: &o.VirtualHostStyle, Accelerate: &o.Accelerate, DualStack: &o.DualStack, FIPS: &o.FIPS,
		SSECustomerKeyFile: &o.SSECustomerKeyFile, Anonymous: &o.Anonymous, RequesterPays: &o.RequesterPays,
		ExpectedBucketOwner: &o.ExpectedBucketOwner, Outage: &o.Outage, Interfaces: &o.Interfaces,
	})
}

// Variables that several subcommands read.
var (
	s3Env = []cli.Entry{
		{Name: "AWS_*", About: "credentials, region, profile and endpoint, as for the AWS tools"},
	}
	tokenEnv = []cli.Entry{
		{Name: "PENSTOCK_TOKEN_FILE", About: "file with the job's shared secret of 16 bytes or more"},
		{Name: "PENSTOCK_TOKEN", About: "the secret itself, if there is no file"},
	}
	launcherEnv = []cli.Entry{
		{Name: "RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT", About: "place in the job, as torchrun and PyTorchJob set it"},
		{Name: "LWS_LEADER_ADDRESS, LWS_GROUP_SIZE, LWS_WORKER_INDEX", About: "place in a LeaderWorkerSet"},
		{Name: "JOB_COMPLETION_INDEX", About: "place in an indexed Job"},
	}
)

// getCommand reads objects to this node.
type getCommand struct {
	command
	options s3stream.GetOptions
}

func newGet() job {
	c := &getCommand{command: command{Command: cli.New("penstock-cast get", cli.Help{
		Usage: []string{"[flags] s3://BUCKET/KEY..."},
		About: "Reads S3 objects to this node. A URI that ends in a slash, or has no key, means all objects below it.",
		Examples: []string{
			"penstock-cast get -o /dev/shm/llama s3://models/llama/",
			"penstock-cast get -o - s3://models/llama/config.json",
		},
		Env: s3Env,
	})}}
	c.outputFlags("`DIR` that receives the files, or - for standard output (default the current directory)", "a quarter of the machine's, at most 1GiB")
	c.s3Flags(&c.options.S3)
	c.commonFlags()
	return c
}

func (c *getCommand) finish(_ map[string]string, s cli.Streams) (err error) {
	if c.out == "" && c.file == "" {
		c.out = "."
	}
	o := &c.options
	o.URIs, o.Memory, o.Progress, o.Log = c.uris, c.memory, (*castProgress)(c.base()), c.log
	if o.Output, err = c.output(s.Out); err != nil {
		return err
	}
	return o.Validate()
}

// leaderCommand reads objects and sends them to the workers.
type leaderCommand struct {
	command
	options s3stream.LeaderOptions
	block   int64
}

func newLeader() job {
	c := &leaderCommand{command: command{Command: cli.New("penstock-cast leader", cli.Help{
		Usage: []string{"[flags] s3://BUCKET/KEY..."},
		About: "Reads S3 objects once and sends them to the workers of a job. A URI that ends in a slash, or has no key, means all objects below it.",
		Examples: []string{
			"PENSTOCK_TOKEN_FILE=/run/secret/token penstock-cast leader --workers 8 \\\n    s3://models/llama/",
		},
		Env: append(append(tokenEnv[:2:2], launcherEnv...), s3Env...),
	})}}
	o := &c.options
	f := c.Group("Job flags")
	f.IntVar(&o.Workers, "workers", 0, "`NUMBER` of workers to wait for (default the launcher's, else all that join within --wait)")
	f.DurationVar(&o.Wait, "wait", s3stream.DefaultWait, "`DURATION` within which the workers must join")
	f.StringVar(&o.Listen, "listen", "", "`ADDRESS` for workers (default the launcher's port or :7117)")
	f.StringVar(&o.Topology, "topology", "auto", "`SHAPE`, which is auto, chain, tree or tree:K")
	f.BoolVar(&o.Insecure, "insecure", false, "accept workers without a token from other machines, because the network is trusted")
	f.StringVar(&o.Digest, "digest", "", "`sha256` proves objects against members that alter them on purpose, for about 0.5 CPU-seconds per GB and node")
	f.DurationVar(&o.StallTimeout, "stall", s3stream.DefaultStall, "`DURATION` for which a peer may be silent")
	cli.Bytes(f, &c.block, "block", "`SIZE` of a block, the unit that members pass on (default 1MiB)")
	c.outputFlags("`DIR` for the leader's own copy, or - for standard output (default no copy)", "a quarter of the machine's, at most 1GiB")
	c.s3Flags(&o.S3)
	c.commonFlags()
	return c
}

func (c *leaderCommand) finish(env map[string]string, s cli.Streams) error {
	o := &c.options
	o.URIs, o.Memory, o.BlockBytes, o.Progress, o.Log = c.uris, c.memory, c.block, (*castProgress)(c.base()), c.log
	place, err := s3stream.PlacementFromEnv(env)
	if err == nil {
		err = place.FillLeader(o)
	}
	if err == nil {
		o.Token, err = token(env)
	}
	if err == nil {
		o.Output, err = c.output(s.Out)
	}
	if err != nil {
		return err
	}
	return o.Validate()
}

// workerCommand receives objects from a leader.
type workerCommand struct {
	command
	options s3stream.WorkerOptions
}

func newWorker() job {
	c := &workerCommand{command: command{Command: cli.New("penstock-cast worker", cli.Help{
		Usage: []string{"[flags]"},
		About: "Receives objects from a leader, passes them on and writes them to files.",
		Examples: []string{
			"PENSTOCK_TOKEN_FILE=/run/secret/token penstock-cast worker --leader node-0 \\\n    -o /dev/shm/llama",
		},
		Env: append(append([]cli.Entry{{Name: "PENSTOCK_LEADER", About: "HOST:PORT of the leader, if neither --leader nor the launcher names it"}},
			tokenEnv...), launcherEnv...),
	})}}
	o := &c.options
	f := c.Group("Job flags")
	f.StringVar(&o.Leader, "leader", "", "`HOST:PORT` of the leader (default from the launcher or PENSTOCK_LEADER)")
	f.StringVar(&o.Listen, "listen", "", "`ADDRESS` for this worker's children (default a free port)")
	f.StringVar(&o.Advertise, "advertise", "", "`HOST[:PORT]` by which other members reach --listen (default the address that the leader sees)")
	f.StringVar(&o.Name, "name", "", "`NAME` in tables and messages (default the host name)")
	f.IntVar(&o.Rank, "rank", 0, "`NUMBER` of the place in the chain or tree, from 1 (default the launcher's)")
	f.BoolVar(&o.Insecure, "insecure", false, "serve other workers without a token, because the network is trusted")
	f.DurationVar(&o.Wait, "wait", s3stream.DefaultWait, "`DURATION` within which the leader must appear")
	c.outputFlags("`DIR` that receives the files, or - for standard output", "a quarter of the machine's, at most 256MiB")
	c.commonFlags()
	return c
}

func (c *workerCommand) finish(env map[string]string, s cli.Streams) error {
	if len(c.uris) > 0 {
		return fmt.Errorf("unexpected argument %q: the leader chooses the objects", c.uris[0])
	}
	if c.out == "" && c.file == "" {
		return errors.New("no output: give -o DIR, -f FILE, or -o - for standard output")
	}
	o := &c.options
	o.Memory, o.Progress, o.Log = c.memory, (*castProgress)(c.base()), c.log
	place, err := s3stream.PlacementFromEnv(env)
	if err == nil {
		err = place.FillWorker(o)
	}
	if err == nil {
		o.Token, err = token(env)
	}
	if err == nil {
		o.Output, err = c.output(s.Out)
	}
	if err != nil {
		return err
	}
	return o.Validate()
}

// token reads the job's secret. It never comes from the command line, which
// every process of the machine can read.
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
