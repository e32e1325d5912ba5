package testorigin

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"time"
)

// Default credentials of the origin. They are not secrets: they open nothing but an origin on a loopback address.
const (
	AccessKey = "AKIAPENSTOCKORIGIN00"
	SecretKey = "penstock/origin/secret/key/for/tests/only"
	// Region is the region of the origin and of every bucket that does not name another one.
	Region = "us-east-1"
	// OwnerID is the account that owns a bucket whose BucketOptions name no other.
	OwnerID = "111122223333"
	// RegistryUser and RegistryPassword are the default registry credentials.
	RegistryUser     = "penstock"
	RegistryPassword = "registry-password"
)

// Options configure an origin. The zero value is useful: an origin on a free loopback port that checks S3 signatures
// against AccessKey and SecretKey, serves the registry without authorization, and injects no faults.
type Options struct {
	// Addr is the address to listen on. Default "127.0.0.1:0": a free port of the loopback interface.
	Addr string
	// Listen makes the listeners, whose addresses are *net.TCPAddr: a test with fake time gives a network in memory.
	// Default: the kernel's.
	Listen func(ctx context.Context, network, address string) (net.Listener, error)
	// Dir is scratch space for bodies that clients upload. Files in it carry private names and are removed when their
	// last version goes; it is not a way to keep objects across runs. Default: a temporary folder, removed by Close.
	Dir string
	// Seed makes every random decision: faults with a probability, random positions, latencies. Default 0.
	Seed uint64
	// Faults is the first fault script; SetFaults replaces it at run time.
	Faults []Fault
	// Quirks are how the S3 half differs from S3 at first; SetQuirks changes them at run time.
	Quirks Quirks
	// FirstByteLatency delays the header of every answer. Default: none.
	FirstByteLatency Latency
	// ConnRate caps what one connection sends, in bytes per second (S3 itself gives 85 to 90 MB/s). Default: no cap.
	ConnRate int64
	// Anonymous lets unsigned S3 requests in. Signed ones are still verified.
	Anonymous bool
	// Credentials are accepted beside AccessKey and SecretKey.
	Credentials []Credential
	// Registry configures the registry half.
	Registry RegistryOptions
	// Now is the clock for signatures, tokens and expiring URLs. Default time.Now.
	Now func() time.Time
	// Log gets one line a request at debug level. Nil is silent.
	Log *slog.Logger
	// Tap, if set, sees every request twice: when it has arrived (Event.Done false) and when its answer has ended. It is
	// called from the goroutine of the request, so it may block it: a test can hold a request at a known point.
	Tap func(Event)
}

// Credential is one more S3 identity.
type Credential struct {
	AccessKey, SecretKey string
	// SessionToken must come along in X-Amz-Security-Token when it is not empty.
	SessionToken string
	// Expires turns requests after this time into ExpiredToken. Zero: never.
	Expires time.Time
}

// RegistryOptions configure the registry half of an origin.
type RegistryOptions struct {
	// Auth is "" or "none" (open), "token" (bearer tokens from /token) or "basic".
	Auth string
	// User and Password are what /token and basic authorization accept. Default RegistryUser and RegistryPassword.
	User, Password string
	// AnonymousPull lets /token give pull tokens to clients without credentials.
	AnonymousPull bool
	// TokenTTL is the life of a bearer token. Default 5 minutes, as Docker Hub does; negative: already expired.
	TokenTTL time.Duration
	// RedirectBlobs answers a blob GET with 307 to a presigned URL on a second host, as registries backed by S3 do.
	RedirectBlobs bool
	// RedirectTTL is the life of such a URL. Default 20 minutes; negative: already expired.
	RedirectTTL time.Duration
	// RedirectUses is how often such a URL may be fetched. Default: without limit.
	RedirectUses int
	// RedirectHost is the host name in such URLs. Default "localhost" on loopback, so that it differs from the registry's
	// host in name as well as in port; else the IP address.
	RedirectHost string
}

// Latency is a distribution of first-byte latencies. A request waits Min plus an exponential share with mean Mean; a
// share Tail of the requests (0 to 1) waits TailDelay instead. S3 from inside its region is about
// {Min: 10ms, Mean: 15ms, Tail: 0.001, TailDelay: 5s}.
type Latency struct {
	Min, Mean time.Duration
	Tail      float64
	TailDelay time.Duration
}

// Event is what a Tap sees of a request.
type Event struct {
	Op, Key, Method string
	Range           string // the Range header, if any
	Remote          string // client address
	Header          map[string][]string
	Done            bool
	Status          int   // 0 until the header is sent, or if the connection was reset before it
	Bytes           int64 // body bytes sent
	Faults          []string
}

// Validate reports the first option that makes no sense, and what to write instead.
func (opts Options) Validate() error {
	if opts.Addr != "" {
		if _, _, err := net.SplitHostPort(opts.Addr); err != nil {
			return fmt.Errorf("testorigin: Addr %q is not host:port; use for example 127.0.0.1:0", opts.Addr)
		}
	}
	if l := opts.FirstByteLatency; l.Tail < 0 || l.Tail > 1 {
		return fmt.Errorf("testorigin: FirstByteLatency.Tail %v is not a share; use a number from 0 to 1", l.Tail)
	}
	switch opts.Registry.Auth {
	case "", "none", "token", "basic":
	default:
		return fmt.Errorf("testorigin: Registry.Auth %q is unknown; use none, token or basic", opts.Registry.Auth)
	}
	for i, c := range opts.Credentials {
		if c.AccessKey == "" || c.SecretKey == "" {
			return fmt.Errorf("testorigin: Credentials[%d] lacks an access key or a secret key; give both", i)
		}
	}
	if err := opts.Quirks.Validate(); err != nil {
		return err
	}
	for _, f := range opts.Faults {
		if err := f.Validate(); err != nil {
			return err
		}
	}
	return nil
}

func (opts Options) withDefaults() Options {
	if opts.Listen == nil {
		opts.Listen = new(net.ListenConfig).Listen
	}
	if opts.Addr == "" {
		opts.Addr = "127.0.0.1:0"
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	r := &opts.Registry
	if r.User == "" {
		r.User, r.Password = RegistryUser, RegistryPassword
	}
	if r.TokenTTL == 0 {
		r.TokenTTL = 5 * time.Minute
	}
	if r.RedirectTTL == 0 {
		r.RedirectTTL = 20 * time.Minute
	}
	return opts
}
