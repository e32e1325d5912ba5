//go:build linux

package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	iofs "io/fs"
	"log/slog"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/penstock/penstock/csi"
	"github.com/penstock/penstock/internal/budget"
)

// parse parses flags wherever they stand among the arguments, and returns the others.
func parse(fs *flag.FlagSet, args []string, stderr io.Writer) ([]string, error) {
	fs.SetOutput(io.Discard) // one line of our own instead of the error and the whole list
	var rest []string
	for {
		switch err := fs.Parse(args); {
		case errors.Is(err, flag.ErrHelp):
			fs.SetOutput(stderr)
			fs.PrintDefaults()
			return nil, err
		case err != nil:
			return nil, usageError{fmt.Errorf("%w: see penstock-csi %s -h", err, fs.Name())}
		}
		args = fs.Args()
		if len(args) == 0 {
			return rest, nil
		}
		rest, args = append(rest, args[0]), args[1:]
	}
}

// logFlags are the flags of logging.
type logFlags struct{ json, verbose bool }

func (l *logFlags) add(fs *flag.FlagSet) {
	fs.BoolVar(&l.json, "json", false, "log lines of JSON")
	fs.BoolVar(&l.verbose, "v", false, "log every call and retry")
}

// logger returns the logger that the flags ask for; least is the level without -v.
func (l *logFlags) logger(w io.Writer, least slog.Level) *slog.Logger {
	level := least
	if l.verbose {
		level = slog.LevelDebug
	}
	o := &slog.HandlerOptions{Level: level}
	if l.json {
		return slog.New(slog.NewJSONHandler(w, o))
	}
	return slog.New(slog.NewTextHandler(w, o))
}

// addS3 adds the flags that say where S3 is. There is none for a secret, on purpose: every process can read arguments.
func addS3(fs *flag.FlagSet, o *csi.S3Options, endpointFlag string) {
	fs.StringVar(&o.Endpoint, endpointFlag, "", "`URL` of the S3 service (default: the environment's, or AWS)")
	fs.StringVar(&o.Region, "region", "", "`region` of the bucket")
	fs.StringVar(&o.Profile, "profile", "", "`name` of the profile in the shared configuration files")
	fs.BoolVar(&o.Anonymous, "no-sign-request", false, "send unsigned requests, for public buckets")
	fs.BoolVar(&o.PathStyle, "force-path-style", false, "put the bucket into the path of URLs; the default for endpoints that are not Amazon's")
	fs.BoolVar(&o.RequesterPays, "requester-pays", false, "agree to pay for requests and traffic")
	fs.StringVar(&o.ExpectedBucketOwner, "expected-bucket-owner", "", "`account` that must own the bucket")
	fs.DurationVar(&o.Outage, "outage", time.Minute, "how `long` an outage of the store is survived before a read fails")
	fs.StringVar(&o.CABundle, "ca-bundle", "", "PEM `file` of authorities to trust in addition to the system's")
}

// heapBase is what the program takes without any volume: a quarter of it in the heap (connections, the gRPC server), the rest
// beside it (code, threads) and for what the collector, whose limit is soft, goes beyond.
const heapBase = 64 << 20

// limitHeap keeps the heap within the bound that docs/semantics.md states: open files, inodes and replies of all volumes
// take at most one and a half times the memory for reads, and the collector a part of that again. GOMEMLIMIT wins.
func limitHeap(memory int64) {
	if os.Getenv("GOMEMLIMIT") != "" {
		return
	}
	if memory == 0 {
		memory = budget.Process().Limit()
	}
	debug.SetMemoryLimit(2*memory + heapBase/4)
}

// size is a flag of bytes: a number, with KiB, MiB or GiB behind it if wanted.
type size int64

func (s *size) String() string { return strconv.FormatInt(int64(*s), 10) }

// Set implements flag.Value.
func (s *size) Set(v string) error {
	shift := 0
	number := v
	for suffix, bits := range map[string]int{"KiB": 10, "MiB": 20, "GiB": 30} {
		if n, ok := strings.CutSuffix(v, suffix); ok {
			number, shift = n, bits
		}
	}
	n, err := strconv.ParseInt(strings.TrimSpace(number), 10, 64)
	if err != nil || n < 0 || n > (1<<62)>>shift {
		return errors.New("use a number of bytes, or for example 512MiB")
	}
	*s = size(n << shift)
	return nil
}

// mode is a flag of permissions in octal.
type mode iofs.FileMode

func (m *mode) String() string { return fmt.Sprintf("%#o", uint32(*m)) }

// Set implements flag.Value.
func (m *mode) Set(v string) error {
	n, err := strconv.ParseUint(v, 8, 32)
	if err != nil || n == 0 || n > 0o777 {
		return errors.New("use an octal number from 1 to 777")
	}
	*m = mode(n) //nolint:gosec // at most 0777
	return nil
}

// ttl is a flag of a duration in which 0 means never.
type ttl time.Duration

func (d *ttl) String() string { return time.Duration(*d).String() }

// Set implements flag.Value.
func (d *ttl) Set(v string) error {
	n, err := time.ParseDuration(v)
	if seconds, plain := strconv.ParseUint(v, 10, 31); err != nil && plain == nil { // as the mount option of a volume takes it
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
