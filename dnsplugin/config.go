package dnsplugin

import (
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"time"

	"github.com/miekg/dns"

	"github.com/penstock/penstock/dnsplugin/internal/sides"
	"github.com/penstock/penstock/dnsplugin/internal/store"
)

// Limits and defaults. Where CoreDNS's cache has the same setting, the value is
// the same, so that a Corefile means the same with either cache.
const (
	// DefaultSuccessTTL and DefaultDenialTTL cap how long answers are kept.
	DefaultSuccessTTL = time.Hour
	DefaultDenialTTL  = 30 * time.Minute
	// DefaultMinTTL is the least time that an answer is kept.
	DefaultMinTTL = 5 * time.Second
	// DefaultServFail is how long SERVFAIL and NOTIMP are kept.
	DefaultServFail = 5 * time.Second
	// MaxServFail is the most that RFC 2308, section 7 permits.
	MaxServFail = 5 * time.Minute
	// DefaultStale is how long after its end an answer may still be served
	// when serve_stale is given without a duration.
	DefaultStale = time.Hour
	// RFCStale is that duration for the option stale. The option also asks the
	// source first, for 1.8 s, gives stale answers a TTL of 30 s, and does not
	// ask a source again for 30 s after it failed (RFC 8767, section 5).
	RFCStale       = 24 * time.Hour
	rfcClientTimer = 1800 * time.Millisecond
	rfcStaleTTL    = 30 * time.Second
	rfcRecheck     = 30 * time.Second
	// MaxStaleRecheck is the most that RFC 8767, section 5 permits.
	MaxStaleRecheck = 5 * time.Minute
	// DefaultMaxMemory bounds both sides of the cache together, in bytes.
	DefaultMaxMemory = 2 * store.DefaultBytes
	// MinMaxMemory leaves each side room for a few of the largest messages.
	MinMaxMemory = 2 * store.MinBytes
	// DefaultCoalesce is how many queries may wait for an answer that another
	// query has requested. In the fast path this number applies to one name, and
	// twice the number to all names together, at 400 bytes each. In the chain a
	// waiting query holds a goroutine of about 8 KiB. CoreDNS starts one for
	// each query in any case, so the worst case of 512 MiB is not an addition.
	DefaultCoalesce = 1 << 16
	// DefaultBatch is how many queries one system call takes from a socket.
	// From 32 on the cost of the call is negligible. 64 empty a full socket
	// buffer of the default size (about 270 small queries) in five calls.
	DefaultBatch = 64
	// MaxBatch and MaxWorkers keep a typing error from using up all memory. A
	// place in a batch has 8.5 KiB of buffers, and each socket of a group makes
	// the steering of every packet more expensive.
	MaxBatch   = 1024
	MaxWorkers = 1024
	// MinCapacity is the fewest entries of a side; smaller numbers are
	// rounded up to it, as in CoreDNS's cache.
	MinCapacity = 1024

	defaultPrefetchDuration   = time.Minute
	defaultPrefetchPercentage = 10

	// bytesPerEntry turns a CAPACITY into memory when no maxmem is given.
	// Answers of a cluster cost 300 to 600 bytes, DNSSEC ones 1 to 2 KiB.
	bytesPerEntry = 1 << 10

	maxTTLSeconds = 1<<31 - 1 // RFC 2181, section 8
)

// Config says how a [Cache] behaves. The zero value caches everything with the
// defaults. A zero field means its default, and a negative one means off.
type Config struct {
	Zones    []string // names to cache, with all names below; nil means all names
	Success  Side     // NOERROR answers with data, and referrals
	Denial   Side     // NXDOMAIN, NODATA, and SERVFAIL
	ServFail time.Duration
	Prefetch Prefetch
	Stale    Stale
	KeepTTL  bool  // reply with the stored TTL instead of the remaining one
	MaxMem   int64 // bytes for both sides together, half each
	Coalesce int   // queries that may wait for a running one of the same key
	FastPath FastPath
	Warm     string // file that keeps the entries over a restart, if not empty
	NXCut    NXCut
	Control  string // absolute path of a UNIX socket to dump and flush entries, if not empty
}

// FastPath configures the fast path: additional sockets, from which cached
// answers are sent without the plugin chain.
type FastPath struct {
	Mode    FastPathMode
	Workers int // sockets, each with a goroutine; 0 means one for each CPU that Go may use
	Batch   int // queries taken from a socket at once; 0 means DefaultBatch
}

// FastPathMode says whether there is a fast path.
type FastPathMode int

// The modes. If the fast path is not possible, the chain answers all queries in
// every mode. The modes then differ in their log message.
const (
	FastPathAuto FastPathMode = iota // where possible; an info message gives the reason if not
	FastPathOn                       // where possible; a warning gives the reason if not
	FastPathOff
)

// String returns the mode as it is written in a Corefile.
func (m FastPathMode) String() string {
	switch m {
	case FastPathOn:
		return "on"
	case FastPathOff:
		return "off"
	case FastPathAuto:
	}
	return "auto"
}

// Side configures one of the two halves of the cache.
type Side struct {
	Capacity int           // most entries; 0 means as many as fit into the memory
	TTL      time.Duration // longest time that an answer is kept
	MinTTL   time.Duration // shortest time
	Disable  []string      // zones whose responses are not kept
}

// Prefetch configures the refreshing of popular entries before they end.
type Prefetch struct {
	Amount     int           // queries that make an entry popular; 0 turns prefetching off
	Duration   time.Duration // the longest gap between them
	Percentage int           // of the TTL: refresh an entry once no more than this is left
}

// Stale configures the serving of answers past their end (RFC 8767).
type Stale struct {
	UpTo           time.Duration // how long after its TTL; 0 turns stale answers off
	Verify         bool          // ask the source first, instead of afterwards
	VerifyTimeout  time.Duration // how long to wait for it; 0 waits until the source answers or fails
	ResponseTTL    time.Duration // TTL of stale answers, whole seconds
	Recheck        time.Duration // pause after a failed refresh
	PreferPositive bool          // a positive answer, even stale, goes before any denial
}

// Validate returns an error that names the wrong setting and the values that it
// may have.
func (c Config) Validate() error {
	switch {
	case c.Success.Capacity < 0 || c.Denial.Capacity < 0:
		return fmt.Errorf("capacity %d is negative: give the number of entries, at least %d, or 0 for as many as the memory holds",
			min(c.Success.Capacity, c.Denial.Capacity), MinCapacity)
	case c.Success.TTL < 0 || c.Denial.TTL < 0:
		return errors.New("a negative TTL: give at least 1s, or 0 for the default")
	case max(c.Success.TTL, c.Denial.TTL, c.Success.MinTTL, c.Denial.MinTTL) > maxTTLSeconds*time.Second:
		return fmt.Errorf("a TTL above %d seconds, the largest that DNS has", maxTTLSeconds)
	case c.ServFail > MaxServFail:
		return fmt.Errorf("servfail %v: RFC 2308 permits at most %v", c.ServFail, MaxServFail)
	case c.MaxMem < 0 || (c.MaxMem > 0 && c.MaxMem < MinMaxMemory):
		return fmt.Errorf("maxmem of %d bytes is too small: give at least %d (2MiB), or 0 for the default of %d (32MiB)", c.MaxMem, MinMaxMemory, DefaultMaxMemory)
	}
	for _, zones := range [][]string{c.Zones, c.Success.Disable, c.Denial.Disable} {
		for _, z := range zones {
			if _, ok := dns.IsDomainName(z); !ok || !dns.IsFqdn(z) {
				return fmt.Errorf("zone %q is not a full domain name: give one that ends with a dot", z)
			}
		}
	}
	if c.Control != "" && (!filepath.IsAbs(c.Control) || len(c.Control) > controlPathLen) {
		return fmt.Errorf("control %q: give an absolute path of at most %d bytes, such as /run/coredns/cache.sock", c.Control, controlPathLen)
	}
	if c.Control != "" && c.Warm != "" && realPath(c.Control) == realPath(c.Warm) {
		return fmt.Errorf("control and warm have the same path, %s: give each a path of its own", c.Control)
	}
	return errors.Join(c.Prefetch.validate(), c.Stale.validate(), c.FastPath.validate(), c.NXCut.validate(c.Zones))
}

func (f FastPath) validate() error {
	switch {
	case f.Mode < FastPathAuto || f.Mode > FastPathOff:
		return fmt.Errorf("fastpath mode %d: it must be on, off or auto", int(f.Mode))
	case f.Workers < 0 || f.Workers > MaxWorkers:
		return fmt.Errorf("workers %d: it must be from 1 to %d, or 0 for one per CPU", f.Workers, MaxWorkers)
	case f.Batch < 0 || f.Batch > MaxBatch:
		return fmt.Errorf("batch %d: it must be from 1 to %d, or 0 for the default of %d", f.Batch, MaxBatch, DefaultBatch)
	}
	return nil
}

func (p Prefetch) validate() error {
	switch {
	case p.Amount < 0:
		return fmt.Errorf("prefetch amount %d is negative: give the number of queries, or 0 for no prefetching", p.Amount)
	case p.Duration < 0:
		return fmt.Errorf("prefetch duration %v is negative: give how far apart queries may be, such as 1m", p.Duration)
	case p.Percentage != 0 && (p.Percentage < 10 || p.Percentage > 90):
		return fmt.Errorf("prefetch percentage %d%%: it must be from 10%% to 90%%", p.Percentage)
	}
	return nil
}

func (s Stale) validate() error {
	switch {
	case s.UpTo < 0:
		return fmt.Errorf("serve_stale duration %v is negative: give for example 1h", s.UpTo)
	case s.VerifyTimeout < 0:
		return fmt.Errorf("serve_stale verify timeout %v is negative: give for example 1800ms, or 0 to wait for the source", s.VerifyTimeout)
	case s.ResponseTTL < 0 || s.ResponseTTL%time.Second != 0 || s.ResponseTTL > maxTTLSeconds*time.Second:
		return fmt.Errorf("serve_stale response TTL %v: it must be a whole number of seconds from 0s to %ds; RFC 8767 recommends 30s", s.ResponseTTL, maxTTLSeconds)
	case s.Recheck < 0 || s.Recheck > MaxStaleRecheck:
		return fmt.Errorf("serve_stale failure recheck %v: it must be from 0s to %v; RFC 8767 recommends 30s", s.Recheck, MaxStaleRecheck)
	}
	return nil
}

// typicalEntry is the size of an answer of a cluster in bytes, with its place in
// the table.
const typicalEntry = 200

// remarks returns warnings about options that have no effect together. The
// cache runs with them, but perhaps not as intended.
func (c Config) remarks() (all []string) {
	say := func(format string, args ...any) { all = append(all, fmt.Sprintf(format, args...)) }
	if f := c.FastPath; f.Mode == FastPathOff && (f.Workers != 0 || f.Batch != 0) {
		say("workers and batch have no effect: fastpath is off")
	}
	for _, s := range []struct {
		name string
		Side
	}{{"success", c.Success}, {"denial", c.Denial}} {
		if most := c.MaxMem / 2 / typicalEntry; c.MaxMem > 0 && int64(s.Capacity) > most {
			say("%s %d: half of maxmem %d holds about %d entries of %d bytes, so the memory limits it first", s.name, s.Capacity, c.MaxMem, most, typicalEntry)
		}
		if s.MinTTL > s.TTL && s.TTL > 0 {
			say("%s: the floor of %v is above the cap of %v, which applies", s.name, s.MinTTL, s.TTL)
		}
	}
	if c.NXCut.On && slices.Contains(c.Denial.Disable, ".") {
		say("nxcut has no effect: denials are disabled")
	}
	if c.Stale.UpTo > 0 && slices.Contains(c.Success.Disable, ".") && slices.Contains(c.Denial.Disable, ".") {
		say("serving stale answers has no effect: both sides are disabled")
	}
	return all
}

// withDefaults returns c with every zero field set to its default.
func (c Config) withDefaults() Config {
	if c.Zones == nil {
		c.Zones = []string{"."}
	}
	c.Success = c.Success.withDefaults(DefaultSuccessTTL)
	c.Denial = c.Denial.withDefaults(DefaultDenialTTL)
	if c.ServFail == 0 {
		c.ServFail = DefaultServFail
	}
	if c.Prefetch.Duration == 0 {
		c.Prefetch.Duration = defaultPrefetchDuration
	}
	if c.Prefetch.Percentage == 0 {
		c.Prefetch.Percentage = defaultPrefetchPercentage
	}
	if c.Coalesce == 0 {
		c.Coalesce = DefaultCoalesce
	}
	if c.FastPath.Batch == 0 {
		c.FastPath.Batch = DefaultBatch
	}
	return c
}

func (s Side) withDefaults(ttl time.Duration) Side {
	if s.TTL == 0 {
		s.TTL = ttl
	}
	switch {
	case s.MinTTL == 0:
		s.MinTTL = DefaultMinTTL
	case s.MinTTL < 0:
		s.MinTTL = 0
	}
	if s.Capacity > 0 {
		s.Capacity = max(s.Capacity, MinCapacity)
	}
	return s
}

// policy returns the part of c that decides how a query is answered.
func (c Config) policy() sides.Policy {
	return sides.Policy{
		Prefetch: sides.Prefetch{Amount: c.Prefetch.Amount, Duration: c.Prefetch.Duration, Percentage: c.Prefetch.Percentage},
		Stale: sides.Stale{
			Verify: c.Stale.Verify, VerifyTimeout: c.Stale.VerifyTimeout,
			TTL: uint32(c.Stale.ResponseTTL / time.Second), Recheck: c.Stale.Recheck,
			PreferAnswers: c.Stale.PreferPositive && c.Stale.UpTo > 0,
		},
		KeepTTL:  c.KeepTTL,
		Coalesce: c.Coalesce > 0,
	}
}

// storeOptions sizes the store of one side. Without maxmem, a CAPACITY gets the
// memory that this number of entries usually needs.
func (c Config) storeOptions(s Side) store.Options {
	bytes := c.MaxMem / 2
	if bytes == 0 {
		bytes = max(store.DefaultBytes, min(int64(s.Capacity), math.MaxInt64/bytesPerEntry)*bytesPerEntry)
	}
	return store.Options{Bytes: bytes, Entries: s.Capacity}
}
