package s3stream

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/penstock/penstock/internal/budget"
	"github.com/penstock/penstock/internal/ranges"
	"github.com/penstock/penstock/internal/s3"
	"github.com/penstock/penstock/s3stream/internal/topology"
)

const (
	// DefaultPort is the leader's port: unassigned at IANA, below the range
	// that systems hand out by themselves.
	DefaultPort = 7117
	// DefaultBlockBytes is where a relay is cheapest on common machines: 256
	// KiB to 1 MiB cost the same, smaller and larger blocks more.
	DefaultBlockBytes = 1 << 20
	// DefaultStall bounds silence. S3's slowest first bytes take 5 s, so a
	// parent that waits for the store is not mistaken for a dead one.
	DefaultStall = 10 * time.Second
	// DefaultWait is how long the members of a job may take to find each other:
	// a scheduler starts pods of one job some tens of seconds apart.
	DefaultWait = 2 * time.Minute

	// DigestSHA256 is a value of LeaderOptions.Digest.
	DigestSHA256 = "sha256"

	minStall = 100 * time.Millisecond // below that, a busy machine looks dead
	maxStall = time.Hour
	// maxMemory of a node by default: beyond it the ring only adds history.
	maxLeaderMemory = 1 << 30
	maxWorkerMemory = 256 << 20
)

// S3 says how to reach the store. The zero value takes everything from the
// environment and the shared configuration files, as the AWS tools do.
type S3 struct {
	Endpoint string // URL; "" means AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL, or AWS itself
	Region   string
	Profile  string
	// AccessKeyID, SecretAccessKey and SessionToken replace the credentials of
	// the environment; Anonymous sends no credentials at all.
	AccessKeyID, SecretAccessKey, SessionToken string
	Anonymous                                  bool
	// PathStyle puts the bucket into the path of URLs, and VirtualHostStyle into
	// the host name. Without either, the profile's addressing_style decides, and
	// without that the endpoint: the host name for Amazon's, the path for others.
	PathStyle, VirtualHostStyle bool
	// Accelerate uses the bucket's endpoint of S3 Transfer Acceleration.
	Accelerate bool
	// DualStack uses Amazon's endpoints that have IPv4 and IPv6 addresses, and
	// FIPS the endpoints validated for FIPS 140.
	DualStack, FIPS bool
	RequesterPays   bool
	// ExpectedBucketOwner makes the store refuse if the bucket belongs to
	// another account.
	ExpectedBucketOwner string
	// CABundle is a PEM file of authorities to trust in addition to the system's.
	CABundle string
	// SSECustomerKeyFile has the key of objects that the store encrypts with one
	// of the customer's (SSE-C): 32 bytes, or base64 or hexadecimal digits for them.
	SSECustomerKeyFile string
	// Interfaces are the network interfaces ("eth1") and local IP addresses over
	// which connections to the store are spread, so that one process uses all
	// network cards. A new connection uses the interface with the fewest
	// connections; an interface that fails is avoided until it works again. Empty
	// lets the routing table choose. Connections between the nodes of a job are
	// not affected.
	Interfaces []string
	// Outage is how long requests are repeated while the store is away; 0 means a
	// minute, negative that nothing is repeated.
	Outage time.Duration
	// Log gets a warning when requests are repeated, at most one every 10 s; nil
	// means the Log of the other options.
	Log *slog.Logger
}

// Validate returns the first mistake in the options, and how to correct it.
func (s S3) Validate() error {
	switch {
	case (s.AccessKeyID == "") != (s.SecretAccessKey == ""):
		return errors.New("half of a key pair: give both AccessKeyID and SecretAccessKey, or neither")
	case s.SessionToken != "" && s.AccessKeyID == "":
		return errors.New("session token without a key pair: give AccessKeyID and SecretAccessKey as well")
	}
	return s.client().Validate()
}

// client returns the options of the client.
func (s S3) client() s3.Options {
	o := s3.Options{
		Endpoint: s.Endpoint, Region: s.Region, Profile: s.Profile, Anonymous: s.Anonymous,
		PathStyle: s.PathStyle, VirtualHostStyle: s.VirtualHostStyle, Accelerate: s.Accelerate, DualStack: s.DualStack, FIPS: s.FIPS,
		RequesterPays: s.RequesterPays, ExpectedBucketOwner: s.ExpectedBucketOwner, CABundle: s.CABundle,
		SSECustomerKeyFile: s.SSECustomerKeyFile, Interfaces: s.Interfaces,
		Retry: s.retry(), Log: s.Log,
	}
	if s.AccessKeyID != "" {
		o.Credentials = s3.StaticCredentials(s.AccessKeyID, s.SecretAccessKey, s.SessionToken)
	}
	return o
}

// retry returns the policy of all requests to the store.
func (s S3) retry() ranges.RetryPolicy { return ranges.RetryPolicy{Outage: s.Outage} }

// LeaderOptions configures a Leader. Only URIs has no default.
type LeaderOptions struct {
	// URIs of what to send: s3://bucket/key for one object, s3://bucket/prefix/
	// or s3://bucket for all objects below it.
	URIs []string
	S3   S3
	// Workers is the number of workers to wait for. 0 means: those that have
	// joined when Wait is over, at least one.
	Workers int
	// Wait bounds how long the workers may take to join; 0 means DefaultWait.
	Wait time.Duration
	// Listen is the address for workers; "" means all addresses, DefaultPort.
	Listen string
	// Token is the shared secret of the job, MinToken bytes or more. Without one, whoever reaches the address can join,
	// so Listen must then be a loopback address, unless Insecure is set.
	Token    string
	Insecure bool
	// Topology is auto, chain, tree or tree:K; "" means auto.
	Topology string
	// BlockBytes is the unit of forwarding; 0 means DefaultBlockBytes.
	BlockBytes int64
	// Memory bounds the buffers; 0 means a quarter of the memory that the
	// process may use, at most 1 GiB.
	Memory int64
	// StallTimeout is how long a peer may be silent or take nothing before it
	// counts as lost; 0 means DefaultStall. It holds for all nodes of the job.
	StallTimeout time.Duration
	// Digest is DigestSHA256 for a SHA-256 of each object that the leader sends every worker over its own connection;
	// "" compares size and CRC32C in this way. CRC32C finds damage at any node, and a relay that alters bytes without
	// hiding it. A member that knows the token can forge a CRC32C; it can't forge SHA-256, which costs each node about
	// 0.5 CPU-seconds per GB.
	Digest string
	// Output of the leader itself; none by default.
	Output Output
	// Progress receives the bytes that were sent, or is nil.
	Progress Progress
	// Log gets warnings about members and repairs. nil is silent.
	Log *slog.Logger
}

// Validate returns the first mistakes in the options, and how to correct them.
func (o LeaderOptions) Validate() error {
	if len(o.URIs) == 0 {
		return errors.New("nothing to send: give at least one s3://bucket/key")
	}
	for _, u := range o.URIs {
		if _, err := parseURI(u); err != nil {
			return err
		}
	}
	if o.Workers < 0 || o.Workers > MaxWorkers {
		return fmt.Errorf("%d workers: give 1 to %d, or 0 for whoever joins in time", o.Workers, MaxWorkers)
	}
	if o.StallTimeout != 0 && (o.StallTimeout < minStall || o.StallTimeout > maxStall) {
		return fmt.Errorf("stall timeout %v: give %v to %v", o.StallTimeout, minStall, maxStall)
	}
	if _, err := topology.ParseShape(o.Topology); err != nil {
		return err
	}
	if o.Digest != "" && o.Digest != DigestSHA256 {
		return fmt.Errorf("digest %q: give %s, or nothing for CRC32C alone", o.Digest, DigestSHA256)
	}
	if err := checkListen(o.Listen); err != nil {
		return err
	}
	return errors.Join(o.S3.Validate(), checkWait(o.Wait), checkSizes(o.BlockBytes, o.Memory), o.Output.validate(false), checkToken(o.Token, o.Insecure, o.Listen))
}

func (o LeaderOptions) withDefaults() LeaderOptions {
	o.S3.Log = logger(cmp.Or(o.S3.Log, o.Log))
	o.Wait = cmp.Or(o.Wait, DefaultWait)
	o.Listen = cmp.Or(o.Listen, ":"+strconv.Itoa(DefaultPort))
	o.BlockBytes = cmp.Or(o.BlockBytes, DefaultBlockBytes)
	o.StallTimeout = cmp.Or(o.StallTimeout, DefaultStall)
	o.Memory = memoryFor(o.Memory, maxLeaderMemory, o.BlockBytes)
	o.Log = logger(o.Log)
	return o
}

// WorkerOptions configures a Worker. Leader and an Output are required.
type WorkerOptions struct {
	// Leader is the leader's address, host or host:port.
	Leader string
	Output Output
	// Listen is the address for this worker's own children; "" means all
	// addresses and a free port.
	Listen string
	// Advertise is what the others dial to reach Listen, host or host:port; ""
	// means the address that the leader sees, with the port of Listen.
	Advertise string
	// Name in logs and reports; "" means the host name.
	Name string
	// Rank orders the workers along the chain or tree; 0 means none given.
	Rank int
	// Token is the shared secret of the job, MinToken bytes or more. Without one, whoever reaches Listen can read the
	// data, so Listen must then be a loopback address (the default if the leader's is one), unless Insecure is set.
	Token    string
	Insecure bool
	// Wait bounds how long the leader may take to appear; 0 means DefaultWait.
	Wait time.Duration
	// Memory bounds the buffers; 0 means a quarter of the memory that the
	// process may use, at most 256 MiB.
	Memory int64
	// Progress receives the bytes that were delivered, or is nil.
	Progress Progress
	// Log gets warnings about peers and repairs. nil is silent.
	Log *slog.Logger
}

// Validate returns the first mistakes in the options, and how to correct them.
func (o WorkerOptions) Validate() error {
	if o.Leader == "" {
		return errors.New("no leader: give its host:port")
	}
	if _, err := withPort(o.Leader); err != nil {
		return fmt.Errorf("leader %q: %w", o.Leader, err)
	}
	if o.Rank < 0 {
		return fmt.Errorf("rank %d is negative", o.Rank)
	}
	if err := checkListen(o.Listen); err != nil {
		return err
	}
	if o.Advertise != "" {
		if _, _, err := net.SplitHostPort(o.Advertise); err != nil && !isHost(o.Advertise) {
			return fmt.Errorf("advertised address %q: want host or host:port", o.Advertise)
		}
	}
	return errors.Join(checkWait(o.Wait), checkSizes(0, o.Memory), o.Output.validate(true), checkToken(o.Token, o.Insecure, o.listen()))
}

// listen returns the address to listen on. A worker without a token whose leader is on this machine stays on it too.
func (o WorkerOptions) listen() string {
	if o.Listen != "" {
		return o.Listen
	}
	if host, _, err := net.SplitHostPort(o.Leader); o.Token == "" && err == nil && isLoopback(host) {
		return net.JoinHostPort(host, "0")
	}
	return ":0"
}

func (o WorkerOptions) withDefaults() WorkerOptions {
	o.Wait = cmp.Or(o.Wait, DefaultWait)
	o.Listen = o.listen()
	o.Memory = memoryFor(o.Memory, maxWorkerMemory, 0)
	o.Leader, _ = withPort(o.Leader)
	if o.Name == "" {
		o.Name, _ = os.Hostname()
	}
	o.Log = logger(o.Log)
	return o
}

// GetOptions configures Get. URIs and an Output are required.
type GetOptions struct {
	URIs   []string // as LeaderOptions.URIs
	S3     S3
	Output Output
	// Memory bounds the buffers; 0 means a quarter of the memory that the
	// process may use, at most 1 GiB.
	Memory int64
	// Progress receives the bytes that were delivered, or is nil.
	Progress Progress
	Log      *slog.Logger // nil is silent
}

// Validate returns the first mistakes in the options, and how to correct them.
func (o GetOptions) Validate() error {
	l := LeaderOptions{URIs: o.URIs, S3: o.S3, Memory: o.Memory, Insecure: true} // it does not listen
	if err := l.Validate(); err != nil {
		return err
	}
	return o.Output.validate(true)
}

func (o GetOptions) withDefaults() GetOptions {
	o.S3.Log = logger(cmp.Or(o.S3.Log, o.Log))
	o.Memory = memoryFor(o.Memory, maxLeaderMemory, DefaultBlockBytes)
	o.Log = logger(o.Log)
	return o
}

// MinToken is the least length of a token in bytes. A listener that is not ours learns from a worker's proof whether
// a guess of the token is right, so tokens must be too many to try.
const MinToken = 16

// checkToken refuses secrets that can be guessed, and listeners without one that other machines can reach.
func checkToken(token string, insecure bool, listen string) error {
	host, _, _ := net.SplitHostPort(listen)
	switch {
	case token != "" && len(token) < MinToken:
		return fmt.Errorf("the token has %d bytes: give at least %d, for example from openssl rand -hex 16", len(token), MinToken)
	case token == "" && !insecure && !isLoopback(host):
		return fmt.Errorf("no token: whoever reaches %s could join the job and read or alter its data; set a token "+
			"(PENSTOCK_TOKEN_FILE), listen on 127.0.0.1, or say that the network is trusted (--insecure)", cmp.Or(listen, ":"+strconv.Itoa(DefaultPort)))
	}
	return nil
}

// isLoopback reports whether only this machine reaches the host. A name other than localhost may be any machine's.
func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

func checkWait(d time.Duration) error {
	if d < 0 {
		return fmt.Errorf("wait %v is negative: use 0 for %v", d, DefaultWait)
	}
	return nil
}

func checkSizes(block, mem int64) error {
	if block != 0 && (block < MinBlockBytes || block > MaxBlockBytes) {
		return fmt.Errorf("block size %d: give %d to %d bytes, or 0 for %d", block, MinBlockBytes, MaxBlockBytes, DefaultBlockBytes)
	}
	least := minMemory(cmp.Or(block, MinBlockBytes))
	if mem != 0 && mem < least {
		return fmt.Errorf("memory of %d bytes: give at least %d (64 blocks), or 0 for a quarter of the machine's", mem, least)
	}
	return nil
}

func checkListen(addr string) error {
	if addr == "" {
		return nil
	}
	_, port, err := net.SplitHostPort(addr)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil {
		return fmt.Errorf("listen address %q: want host:port or :port", addr)
	}
	return nil
}

// isPeerAddr reports whether a member's own statement of its address is one: host:port, and nothing that a log or a
// terminal would take for more.
func isPeerAddr(addr string) bool {
	host, port, err := net.SplitHostPort(addr)
	if err != nil || host == "" || len(addr) > maxAddr {
		return false
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return false
	}
	return !strings.ContainsFunc(host, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune(".-_:%", r))
	})
}

// withPort adds the default port to an address without one.
func withPort(addr string) (string, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		if !isHost(addr) {
			return "", errors.New("want host or host:port")
		}
		return net.JoinHostPort(addr, strconv.Itoa(DefaultPort)), nil
	}
	if host == "" {
		return "", errors.New("the host is missing")
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return "", fmt.Errorf("%q is not a port", port)
	}
	return addr, nil
}

// isHost reports whether s is a host without a port.
func isHost(s string) bool {
	_, _, err := net.SplitHostPort(s + ":1")
	return err == nil || net.ParseIP(s) != nil
}

func memoryFor(given, most, block int64) int64 {
	if given > 0 {
		return given
	}
	return max(min(budget.DefaultLimit(), most), minMemory(block))
}

func logger(l *slog.Logger) *slog.Logger {
	if l == nil {
		return slog.New(slog.DiscardHandler)
	}
	return l
}
