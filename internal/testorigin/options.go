package testorigin

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"time"
)

// Default credentials of the origin. They are not secret, because they only
// give access to an origin on a loopback address.
const (
	AccessKey = "AKIAPENSTOCKORIGIN00"
	SecretKey = "penstock/origin/secret/key/for/tests/only"
	// Region is the region of the origin and of every bucket that does not name
	// another one.
	Region = "us-east-1"
	// OwnerID is the account that owns a bucket unless its BucketOptions name
	// another one.
	OwnerID = "111122223333"
	// RegistryUser and RegistryPassword are the default registry credentials.
	RegistryUser     = "penstock"
	RegistryPassword = "registry-password"
)

// Options configure an origin. The zero value is useful: it makes an origin on
// a free loopback port that checks S3 signatures against AccessKey and
// SecretKey, serves the registry without authorization, and injects no faults.
type Options struct {
	// Addr is the address to listen on. Default "127.0.0.1:0", which is a free
	// port of the loopback interface.
	Addr string
	// Listen makes the listeners, whose addresses must be *net.TCPAddr. A test
	// in fake time passes a network in memory. The default is the kernel's
	// network.
	Listen func(ctx context.Context, network, address string) (net.Listener, error)
	// Dir is scratch space for bodies that clients upload. Its files have
	// private names and are removed with their last version, so objects do not
	// outlive a run. The default is a temporary folder that Close removes.
	Dir string
	// Seed determines every random decision: faults with a probability, random
	// positions, latencies. Default 0.
	Seed uint64
	// Faults is the first fault script; SetFaults replaces it at run time.
	Faults []Fault
	// Quirks are the first differences of the S3 half from S3; SetQuirks
	// changes them at run time.
	Quirks Quirks
	// FirstByteLatency delays the header of every answer. By default there is
	// no delay.
	FirstByteLatency Latency
	// ConnRate caps the bytes per second that one connection sends (S3 itself
	// sends 85 to 90 MB/s). By default there is no cap.
	ConnRate int64
	// Anonymous accepts unsigned S3 requests. Signed ones are still verified.
	Anonymous bool
	// Credentials are accepted in addition to AccessKey and SecretKey.
	Credentials []Credential
	// Registry configures the registry half.
	Registry RegistryOptions
	// Now is the clock for signatures, tokens and expiring URLs. Default time.Now.
	Now func() time.Time
	// Log gets one line a request at debug level, or is nil.
	Log *slog.Logger
	// Tap, if set, is called twice for every request: on its arrival
	// (Event.Done is false) and at the end of its answer. The request's
	// goroutine calls it, so a test can block it to hold the request at a known
	// point.
	Tap func(Event)
}

// Credential is one more S3 identity.
type Credential struct {
	AccessKey, SecretKey string
	// SessionToken, if set, must be in X-Amz-Security-Token.
	SessionToken string
	// Expires is the time after which requests get ExpiredToken, or zero.
	Expires time.Time
}

// RegistryOptions configure the registry half of an origin.
type RegistryOptions struct {
	// Auth is "" or "none" (open), "token" (bearer tokens from /token) or "basic".
	Auth string
	// User and Password are accepted by /token and basic authorization. Default
	// RegistryUser and RegistryPassword.
	User, Password string
	// AnonymousPull makes /token return pull tokens to clients without
	// credentials.
	AnonymousPull bool
	// TokenTTL is the life of a bearer token. Default 5 minutes, as at Docker
	// Hub. Negative makes expired tokens.
	TokenTTL time.Duration
	// RedirectBlobs answers a blob GET with 307 to a presigned URL on a second
	// host, as registries backed by S3 do.
	RedirectBlobs bool
	// RedirectTTL is the life of such a URL. Default 20 minutes. Negative makes
	// expired URLs.
	RedirectTTL time.Duration
	// RedirectUses is how often such a URL may be fetched. By default there is
	// no limit.
	RedirectUses int
	// RedirectHost is the host name in such URLs. Default "localhost" on
	// loopback, so that it differs from the registry's host in name as well as
	// in port, and otherwise the IP address.
	RedirectHost string
}

// Latency is a distribution of first-byte latencies. A request waits Min plus
// an exponentially distributed time with mean Mean. A share Tail of the
// requests (0 to 1) waits TailDelay instead. S3 from inside its region is about
// {Min: 10ms, Mean: 15ms, Tail: 0.001, TailDelay: 5s}.
type Latency struct {
	Min, Mean time.Duration
	Tail      float64
	TailDelay time.Duration
}

// Event describes a request to a Tap.
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

// Validate returns the first mistake in the options, and how to correct it.
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
