//go:build linux

package main

import (
	"errors"
	"fmt"
	iofs "io/fs"
	"log/slog"
	"os"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/penstock/penstock/csi"
	"github.com/penstock/penstock/internal/budget"
	"github.com/penstock/penstock/internal/cli"
)

// logFlags adds the flags of logs.
func logFlags(c *cli.Command, level slog.Level) {
	c.LogFlags(level)
	c.Old(cli.Old{Flag: "--json", New: "--log-format=json"})
}

// s3Flags returns the flags of the S3 store without the customer key, which only
// mount takes.
func s3Flags(o *csi.S3Options) cli.S3 {
	o.Outage = defaultOutage
	return cli.S3{
		Endpoint: &o.Endpoint, Region: &o.Region, Profile: &o.Profile, PathStyle: &o.PathStyle, CABundle: &o.CABundle,
		VirtualHostStyle: &o.VirtualHostStyle, Accelerate: &o.Accelerate, DualStack: &o.DualStack, FIPS: &o.FIPS,
		Anonymous: &o.Anonymous, RequesterPays: &o.RequesterPays, ExpectedBucketOwner: &o.ExpectedBucketOwner,
		Outage: &o.Outage, Interfaces: &o.Interfaces,
	}
}

const defaultOutage = time.Minute

// awsEnv are the variables that S3 clients read.
var awsEnv = []cli.Entry{
	{Name: "AWS_*", About: "credentials, region, profile and endpoint, as for the AWS tools"},
	{Name: "GOMEMLIMIT", About: "limit of the Go heap (default derived from --memory)"},
}

// heapBase is the memory of the program without any volume: a quarter of it in
// the heap (connections, the gRPC server), and the rest for code, threads and
// for the excess of the collector, whose limit is soft.
const heapBase = 64 << 20

// limitHeap keeps the heap within the bound that docs/semantics.md states: open
// files, inodes and replies of all volumes take at most one and a half times the
// memory for reads, and the collector adds a part of that. GOMEMLIMIT overrides
// it.
func limitHeap(memory int64) {
	if os.Getenv("GOMEMLIMIT") != "" {
		return
	}
	if memory == 0 {
		memory = budget.Process().Limit()
	}
	debug.SetMemoryLimit(2*memory + heapBase/4)
}

// mode is a flag for permissions in octal.
type mode iofs.FileMode

func (m *mode) String() string { return fmt.Sprintf("%#o", uint32(*m)) }
func (m *mode) Type() string   { return "OCTAL" }

// Set implements pflag.Value.
func (m *mode) Set(v string) error {
	n, err := strconv.ParseUint(v, 8, 32)
	if err != nil || n == 0 || n > 0o777 {
		return errors.New("use an octal number from 1 to 777")
	}
	*m = mode(n) //nolint:gosec // at most 0777
	return nil
}

// ttl is a flag for a duration, of which 0 means that nothing is cached.
type ttl time.Duration

func (d *ttl) String() string { return time.Duration(*d).String() }
func (d *ttl) Type() string   { return "duration" }

// Set implements pflag.Value.
func (d *ttl) Set(v string) error {
	n, err := time.ParseDuration(v)
	if seconds, plain := strconv.ParseUint(v, 10, 31); err != nil && plain == nil { // as in the mount option of a volume
		n, err = time.Duration(seconds)*time.Second, nil //nolint:gosec // at most 2^31
	}
	if err != nil || n < 0 {
		return errors.New("use seconds (60) or a duration (5m), or 0 to ask every time")
	}
	if n == 0 {
		n = -1
	}
	*d = ttl(n)
	return nil
}
