package soci

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/http"
	"os"
	"runtime"
	"time"

	"github.com/penstock/penstock/internal/budget"
	"github.com/penstock/penstock/internal/nic"
	"github.com/penstock/penstock/soci/internal/flow"
	"github.com/penstock/penstock/soci/internal/registry"
	"github.com/penstock/penstock/soci/internal/untar"
)

// Options configure a [Puller]. The zero value works. A zero field means the
// default stated at the field, a negative number means off or no limit.
type Options struct {
	// Platform is os/arch[/variant], for example "linux/arm64" or
	// "linux/arm/v7". A pull fails if the image does not exist for it. Default:
	// this machine's platform; an image for another one is then pulled with a
	// warning.
	Platform string
	// PlainHTTP uses http instead of https for registries. Registries on
	// loopback addresses are always asked over http.
	PlainHTTP bool
	// Credentials returns the credential for a repository (library/alpine) at a
	// host (name or name:port), the two parts of a reference. It is called at
	// each login, at least once per pull, and its results are not kept after
	// the pull. If it fails the login is anonymous. Default: docker's
	// config.json with its credential helpers, then podman's auth.json.
	Credentials func(ctx context.Context, host, repository string) (Credential, error)
	// HostsDir holds a folder for each registry with hosts.toml or
	// certificates, like containerd's config_path. It is read again for every
	// image. "none" disables it. Default: /etc/containerd/certs.d, which need
	// not exist.
	HostsDir string
	// Patience ends a Resolve or Pull whose registry has given no usable answer
	// (no connection, silence, 5xx, 429) to the request for the manifest for
	// this long. For a while after that, other pulls from the registry fail
	// immediately. Default: 0, which leaves only the retries of each request.
	Patience time.Duration
	// HTTPClient makes all requests. Its redirect policy is ignored: redirects
	// are followed without credentials. Default: tuned HTTP/1.1 clients that
	// belong to the Puller.
	HTTPClient *http.Client
	// DialContext makes connections when HTTPClient is nil, for example through
	// a tunnel.
	DialContext func(ctx context.Context, network, address string) (net.Conn, error)
	// Interfaces are the network interfaces ("eth1") and local IP addresses
	// over which connections are spread, so that one process uses all network
	// cards. A new connection uses the interface with the fewest connections,
	// and the registry address with the fewest; an interface that fails is
	// avoided until it works again. It excludes HTTPClient and DialContext.
	// Default: the routing table chooses.
	Interfaces []string

	// Memory bounds the buffers of the Puller, over all its pulls, in bytes.
	// Default: 256 MiB, or a quarter of the memory limit of the process if that
	// is less.
	Memory int64
	// Budget, if set, must grant Memory bytes before each pull, which returns
	// them at its end. With it several Pullers and other users of memory in a
	// process share one bound. A *semaphore.Weighted of golang.org/x/sync is a
	// Budget. Default: nil, no bound beyond this Puller's Memory.
	Budget Budget
	// PartBytes is the size of one request. Default: 8 MiB, less with little
	// Memory.
	PartBytes int64
	// Outage is how long requests for layers are repeated while a registry does
	// not answer, before the pull fails. Default: one minute. Negative: no
	// repetition.
	Outage time.Duration
	// MaxConns bounds the concurrent requests to one host. Default: 256; the
	// number in use adapts to the host.
	MaxConns int
	// Parallelism is the number of layers that are processed concurrently.
	// Default: the number of processors, at least 3, so that one layer can
	// download while another is decoded and a third writes its last files. If
	// the process may open fewer than a few thousand files, the defaults of
	// this field, Writers and MaxConns are lower.
	Parallelism int
	// Writers is the number of goroutines that create files. Default: twice the
	// number of processors.
	Writers int

	// Limits bound the effect of an image on the disk.
	Limits Limits
	// Sync flushes the file system before the tree becomes visible, and its
	// directory afterwards. Then a power cut neither leaves a torn tree nor
	// removes a tree whose pull has succeeded. Default: off.
	Sync bool
	// Store receives a copy of every blob while it is pulled, and of the
	// manifest and config: an image layout ([OpenLayout]) or a content store.
	// The pull waits for it, and its disk holds the compressed bytes. Default:
	// none; compressed bytes never touch a disk.
	Store BlobStore
	// IndexDir is an existing directory for indexes of decoded layers. An index
	// lists the offsets at which decoding can start, so that all cores decode
	// the next pull of that layer. The file of a layer is named
	// <algorithm>-<hex>.layeridx after the digest of its blob, and may be
	// copied to other machines. The content of pulled images never depends on
	// an index. An index takes about 0.1 % of its layer's compressed bytes, and
	// the directory is kept below 1 GiB. Recording costs 1 to 4 % of the CPU
	// time of decoding. Default: none.
	IndexDir string
	// CheckpointBytes is the number of bytes of a layer's tar between two
	// checkpoints, from which the next pull resumes after a kill. Default: 128
	// MiB. Negative: unfinished layers restart.
	CheckpointBytes int64
	// KeepFailed makes a failed or cancelled pull keep its finished layers and
	// checkpoints for the next pull to the same target, like a killed one, in a
	// hidden directory that [Error] names. A full disk overrides it. Default: a
	// failed pull removes everything.
	KeepFailed bool
	// Progress receives the progress of pulls. Default: none.
	Progress Progress
	// Log receives retries, hedges and refused URLs at debug level, and
	// problems that a pull survives as warnings. Default: no log.
	Log *slog.Logger
}

// Credential opens a registry. The zero Credential is anonymous. Every way to
// print it (fmt, JSON, slog) shows the user name and no secret.
type Credential struct {
	Username, Password string
	IdentityToken      string // OAuth2 refresh token, in place of a password
	RegistryToken      string // sent unchanged as a bearer token
}

// String names the user and no secret.
func (c Credential) String() string { return registry.Credential(c).String() }

// Format implements [fmt.Formatter]: every verb prints String.
func (c Credential) Format(s fmt.State, verb rune) { registry.Credential(c).Format(s, verb) }

// MarshalJSON writes String as a JSON string.
func (c Credential) MarshalJSON() ([]byte, error) { return registry.Credential(c).MarshalJSON() }

// LogValue returns String, for log/slog.
func (c Credential) LogValue() slog.Value { return registry.Credential(c).LogValue() }

// Budget is a shared allowance of bytes. Implementations must be safe for
// concurrent use.
type Budget interface {
	// Acquire waits until n bytes are available or ctx ends.
	Acquire(ctx context.Context, n int64) error
	// Release returns n bytes.
	Release(n int64)
}

// Limits bound the resources that an image may use on the node. A zero field
// means its default, a negative one no limit. An image that exceeds a limit
// fails with [ErrLimit]; the error names the field.
type Limits struct {
	Entries   int64 // of all layers; default 10 million
	Depth     int   // components of a path; default 255
	NameLen   int   // bytes of a path; default 4096
	TotalSize int64 // bytes of all files; default 1 TiB
	// Attributes bounds the names and values of the extended attributes of one
	// entry, in bytes; default 1 MiB. The names alone are bounded by Linux (64
	// KiB).
	Attributes int64
	// Metadata bounds the memory, in bytes, for directories, whiteouts, hard
	// links whose target comes later, and maps of sparse files, from the first
	// layer to the finished tree. All images of a Puller share it: when it is
	// used up, an image that has more than its share fails. It is part of
	// Memory. Default: half of Memory, about a million directories with the
	// default Memory. A negative number means three quarters of Memory.
	Metadata int64
	// Window bounds the history of a zstd frame in bytes; default 128 MiB,
	// which the zstd tool accepts without an option. A frame waits until Memory
	// has room for its window, and fails if the window exceeds half of Memory.
	Window int64
	// Ratio bounds the tar bytes per compressed byte of a layer; default 250.
	// It applies to the bytes beyond RatioFree, because a layer that is small
	// compared with the disk does no harm, however well it compresses.
	Ratio float64
	// RatioFree is the number of tar bytes that a layer may have whatever its
	// ratio. Default: an eighth of the free disk, at least 256 MiB and at most
	// 16 GiB.
	RatioFree int64
}

const (
	mib = 1 << 20

	maxConns      = 256       // the engine's default for a host
	defaultMemory = 256 * mib // twice the delay-bandwidth product of 10 Gbit/s and 100 ms
	minMemory     = 16 * mib  // one part, one ring and the writers' buffers of each layer
	defaultPart   = 8 * mib   // the engine's default
	minPart       = 256 << 10 // smaller requests cost more than their bytes
	maxPart       = 1 << 30   // the engine's limit
	// defaultCheckpoint is at least a fifth of a second of work, compared with
	// the few milliseconds of writing a checkpoint.
	defaultCheckpoint = 128 * mib
	minCheckpoint     = mib // with less, writing checkpoints would dominate
	// defaultRatio is above the ratios of real layers (sparse disk images with
	// some content reach about 60) and a fourth of deflate's maximum (1032).
	defaultRatio  = 250
	defaultWindow = 128 * mib
	minWindow     = 1 << 10 // the smallest window of a zstd frame
	minMetadata   = 1 * mib
	// defaultHosts is the directory that containerd's documentation recommends.
	defaultHosts = "/etc/containerd/certs.d"
)

// Validate returns an error that names an invalid option and its valid values,
// or nil.
func (o Options) Validate() error {
	if _, err := registry.ParsePlatform(o.Platform); err != nil {
		return err
	}
	switch {
	case o.Memory != 0 && o.Memory < minMemory:
		return fmt.Errorf("memory of %d bytes is too little: use 0 for the default, or at least %d (16 MiB)", o.Memory, minMemory)
	case o.PartBytes != 0 && (o.PartBytes < minPart || o.PartBytes > maxPart):
		return fmt.Errorf("part size %d is out of range: use 0 for the default, or %d to %d bytes", o.PartBytes, minPart, maxPart)
	case o.PartBytes > 0 && o.Memory > 0 && o.PartBytes > o.Memory/4:
		return fmt.Errorf("part size %d is more than a fourth of the memory %d: use smaller parts or more memory", o.PartBytes, o.Memory)
	case len(o.Interfaces) > 0 && (o.HTTPClient != nil || o.DialContext != nil):
		return errors.New("interfaces exclude an HTTP client and a dial function: give one of them")
	case o.MaxConns < 0 || o.MaxConns == 1:
		return fmt.Errorf("%d connections for each host: use 0 for the default, or at least 2 (one may stall)", o.MaxConns)
	case o.Parallelism < 0:
		return fmt.Errorf("parallelism %d is negative: use 0 for the default, or 1 and more layers at once", o.Parallelism)
	case o.Patience < 0:
		return fmt.Errorf("patience of %v is negative: use 0 for the retries that all requests have, or for example 5s", o.Patience)
	case o.Writers < 0:
		return fmt.Errorf("%d writers: use 0 for the default, or 1 and more", o.Writers)
	case o.CheckpointBytes > 0 && o.CheckpointBytes < minCheckpoint:
		return fmt.Errorf("%d bytes between two checkpoints are too few: use 0 for the default, at least %d (1 MiB), or a negative number for none", o.CheckpointBytes, minCheckpoint)
	case o.Limits.Ratio > 0 && o.Limits.Ratio < 1:
		return fmt.Errorf("expansion ratio %g is below 1, so that nothing could be unpacked: use 0 for the default, or more than 1", o.Limits.Ratio)
	case o.Limits.Window > 0 && o.Limits.Window < minWindow:
		return fmt.Errorf("a zstd window of %d bytes is less than any frame has: use 0 for the default, or at least %d", o.Limits.Window, minWindow)
	case o.Limits.Metadata > 0 && o.Limits.Metadata < minMetadata:
		return fmt.Errorf("%d bytes for the names of an image are too few: use 0 for the default, or at least %d (1 MiB)", o.Limits.Metadata, minMetadata)
	}
	if err := nic.Check(o.Interfaces); err != nil {
		return fmt.Errorf("interfaces: %w", err)
	}
	if o.IndexDir != "" {
		if fi, err := os.Stat(o.IndexDir); err != nil || !fi.IsDir() {
			return fmt.Errorf("index directory %q is not a directory: create it first", o.IndexDir)
		}
	}
	if o.HostsDir != "" && o.HostsDir != "none" {
		if fi, err := os.Stat(o.HostsDir); err != nil || !fi.IsDir() {
			return fmt.Errorf("hosts directory %q is not a directory: name one with a folder for each registry, or none", o.HostsDir)
		}
	}
	return nil
}

// withDefaults replaces zero fields by their defaults.
func (o Options) withDefaults() Options {
	if o.Memory == 0 {
		o.Memory = max(minMemory, min(defaultMemory, budget.DefaultLimit()))
	}
	if o.PartBytes == 0 {
		o.PartBytes = max(minPart, min(defaultPart, o.Memory/16))
	}
	if o.CheckpointBytes == 0 {
		o.CheckpointBytes = defaultCheckpoint
	}
	o = o.share(runtime.GOMAXPROCS(0), openFiles())
	if o.HostsDir == "" {
		o.HostsDir = defaultHosts // it may be created later
	}
	d := untar.DefaultLimits()
	l := &o.Limits
	if l.Entries == 0 {
		l.Entries = d.Entries
	}
	if l.Depth == 0 {
		l.Depth = d.Depth
	}
	if l.NameLen == 0 {
		l.NameLen = d.NameLen
	}
	if l.TotalSize == 0 {
		l.TotalSize = d.TotalSize
	}
	if l.Attributes == 0 {
		l.Attributes = d.Attributes
	}
	switch {
	case l.Metadata == 0:
		l.Metadata = o.Memory / 2
	case l.Metadata < 0:
		l.Metadata = o.Memory / 4 * 3
	}
	switch {
	case l.Window == 0:
		l.Window = defaultWindow
	case l.Window < 0:
		l.Window = math.MaxInt64
	}
	if l.Ratio == 0 {
		l.Ratio = defaultRatio
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Progress == nil {
		o.Progress = noProgress{}
	}
	return o
}

// maxState bounds the state of an extraction in a checkpoint, in bytes. Saving
// it briefly takes three or four times as much memory.
func (o Options) maxState() int64 { return o.Memory / 16 }

// share sets the defaults of MaxConns, Parallelism and Writers for a number of
// processors and of files that the process may open. An eighth of the files is
// for connections to one host (a pull often uses two), a quarter for the
// directories that layers keep open, and a quarter for the files of the
// writers.
func (o Options) share(cpus, files int) Options {
	const perLayer, perWriter = 64, 32 // untar's bounds
	if o.MaxConns == 0 && files/8 < maxConns {
		o.MaxConns = max(2, files/8)
	}
	if o.Parallelism == 0 {
		o.Parallelism = min(max(3, cpus), max(1, files/4/perLayer))
	}
	if o.Writers == 0 {
		o.Writers = min(2*cpus, max(1, files/4/perWriter))
	}
	return o
}

func (l Limits) untar() untar.Limits {
	return untar.Limits{Entries: l.Entries, Depth: l.Depth, NameLen: l.NameLen, TotalSize: l.TotalSize, Attributes: l.Attributes}
}

func (l Limits) flow() flow.Limits {
	return flow.Limits{Window: l.Window, Ratio: l.Ratio, RatioFree: l.RatioFree}
}

// registry returns the options of the registry client.
func (o Options) registry() registry.Options {
	ro := registry.Options{HTTPClient: o.HTTPClient, Interfaces: o.Interfaces, PlainHTTP: o.PlainHTTP, HostsDir: o.HostsDir, Patience: o.Patience, Log: o.Log}
	if o.DialContext != nil {
		ro.Dial = o.DialContext
	}
	if ro.HostsDir == "none" {
		ro.HostsDir = ""
	}
	if lookup := o.Credentials; lookup != nil {
		ro.Credentials = func(ctx context.Context, host, repository string) (registry.Credential, error) {
			c, err := lookup(ctx, host, repository)
			return registry.Credential(c), err
		}
	}
	return ro
}
