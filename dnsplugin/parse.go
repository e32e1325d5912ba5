package dnsplugin

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/coredns/caddy"
	"github.com/coredns/coredns/plugin"
	"github.com/miekg/dns"
)

// options lists the names of a block's options, for error messages.
const options = "success, denial, prefetch, serve_stale, serve_stale_policy, servfail, disable, keepttl, maxmem, coalesce, warm, control, stale, fastpath, workers, batch, nxcut"

// onceOptions may occur only once in a block.
var onceOptions = []string{"serve_stale_policy", "maxmem", "coalesce", "warm", "control", "stale", "fastpath", "workers", "batch", "nxcut"}

// Parse reads one directive with its block from c. It changes only the position
// of c. Every error names the file, the line, the option and its valid form.
func Parse(c *caddy.Controller) (Config, error) {
	var cfg Config
	if !c.Next() {
		return cfg, c.Err("the directive is missing")
	}
	if err := parseHead(c, &cfg); err != nil {
		return cfg, err
	}
	seen := map[string]bool{}
	for c.NextBlock() {
		if err := parseOption(c, &cfg, seen); err != nil {
			return cfg, err
		}
	}
	if c.Next() {
		return cfg, fmt.Errorf("%s:%d - %w", c.File(), c.Line(), plugin.ErrOnce)
	}
	if seen["serve_stale_policy"] && !seen["serve_stale"] {
		return cfg, c.Err("serve_stale_policy needs serve_stale in the same block")
	}
	if err := cfg.Validate(); err != nil {
		return cfg, c.Err(err.Error())
	}
	return cfg, nil
}

// parseHead reads the rest of the directive's line: [TTL] [ZONES...].
func parseHead(c *caddy.Controller, cfg *Config) error {
	args := c.RemainingArgs()
	if len(args) > 0 {
		// A number is the TTL, and anything else is a zone.
		if _, err := strconv.Atoi(args[0]); err == nil {
			ttl, err := parseTTL(c, "TTL", args[0], 1)
			if err != nil {
				return err
			}
			cfg.Success.TTL, cfg.Denial.TTL = ttl, ttl
			args = args[1:]
		}
	}
	for _, a := range args {
		if len(plugin.Host(a).NormalizeExact()) == 0 {
			return c.Errf("zone %q is neither a domain name nor a network: give for example example.org or 10.0.0.0/8", a)
		}
	}
	cfg.Zones = plugin.OriginsFromArgsOrServerBlock(args, c.ServerBlockKeys)
	return nil
}

// parseOption reads one line of the block; its name is the current token.
func parseOption(c *caddy.Controller, cfg *Config, seen map[string]bool) error {
	name := c.Val()
	args := c.RemainingArgs()
	// In CoreDNS's cache the last of several lines applies, except for one
	// option that it refuses. Keep that for the options that it has.
	if seen[name] && slices.Contains(onceOptions, name) {
		return c.Errf("%s is given twice: keep one", name)
	}
	seen[name] = true
	switch name {
	case "success":
		return parseSide(c, name, args, &cfg.Success)
	case "denial":
		return parseSide(c, name, args, &cfg.Denial)
	case "prefetch":
		return parsePrefetch(c, args, &cfg.Prefetch)
	case "serve_stale":
		if seen["stale"] {
			return c.Err("serve_stale together with stale: keep one, they set the same")
		}
		return parseStale(c, args, &cfg.Stale)
	case "serve_stale_policy":
		if len(args) != 1 || !strings.EqualFold(args[0], "prefer_positive") {
			return c.Errf("serve_stale_policy %s: the only policy is prefer_positive", strings.Join(args, " "))
		}
		cfg.Stale.PreferPositive = true
	case "servfail":
		return parseServFail(c, args, cfg)
	case "disable":
		return parseDisable(c, args, cfg)
	case "keepttl":
		if len(args) != 0 {
			return c.Errf("keepttl takes no argument, found %q", args[0])
		}
		cfg.KeepTTL = true
	case "maxmem":
		return parseMaxMem(c, args, cfg)
	case "coalesce":
		return parseCoalesce(c, args, cfg)
	case "fastpath":
		return parseFastPath(c, args, &cfg.FastPath)
	case "workers":
		return parseCount(c, name, "sockets with a worker each", args, MaxWorkers, &cfg.FastPath.Workers)
	case "batch":
		return parseCount(c, name, "queries taken from a socket at once", args, MaxBatch, &cfg.FastPath.Batch)
	case "warm":
		if len(args) != 1 || args[0] == "" {
			return c.Errf("warm needs one FILE, found %d arguments", len(args))
		}
		cfg.Warm = args[0]
	case "control":
		if len(args) != 1 || args[0] == "" {
			return c.Errf("control needs one PATH of a socket, found %d arguments", len(args))
		}
		cfg.Control = args[0]
	case "nxcut":
		return parseNXCut(c, args, &cfg.NXCut)
	case "stale":
		return parseRFC8767(c, args, cfg, seen)
	default:
		return c.Errf("unknown option %q: allowed are %s", name, options)
	}
	return nil
}

// parseSide reads CAPACITY [TTL] [MINTTL].
func parseSide(c *caddy.Controller, name string, args []string, s *Side) error {
	if len(args) < 1 || len(args) > 3 {
		return c.Errf("%s needs CAPACITY [TTL] [MINTTL], found %d arguments", name, len(args))
	}
	n, err := strconv.Atoi(args[0])
	if err != nil || n < 0 {
		return c.Errf("%s: capacity %q is not a number of entries: give for example 10000", name, args[0])
	}
	// As in CoreDNS, 0 is rounded up like every other small number.
	s.Capacity = max(n, 1)
	if len(args) > 1 {
		if s.TTL, err = parseTTL(c, name+" TTL", args[1], 1); err != nil {
			return err
		}
	}
	if len(args) > 2 {
		if s.MinTTL, err = parseTTL(c, name+" MINTTL", args[2], 0); err != nil {
			return err
		}
		if s.MinTTL == 0 {
			s.MinTTL = -1 // an explicit 0 is "no floor", not the default
		}
	}
	return nil
}

func parseTTL(c *caddy.Controller, what, arg string, least int) (time.Duration, error) {
	n, err := strconv.Atoi(arg)
	if err != nil || n < least || n > maxTTLSeconds {
		return 0, c.Errf("%s %q is not a number of seconds from %d to %d", what, arg, least, maxTTLSeconds)
	}
	return time.Duration(n) * time.Second, nil
}

// parsePrefetch reads AMOUNT [[DURATION] [PERCENTAGE%]].
func parsePrefetch(c *caddy.Controller, args []string, p *Prefetch) error {
	if len(args) < 1 || len(args) > 3 {
		return c.Errf("prefetch needs AMOUNT [DURATION [PERCENTAGE%%]], found %d arguments", len(args))
	}
	var err error
	if p.Amount, err = strconv.Atoi(args[0]); err != nil || p.Amount < 0 {
		return c.Errf("prefetch: amount %q is not a number of queries: give for example 10, or 0 for no prefetching", args[0])
	}
	if len(args) > 1 {
		if p.Duration, err = time.ParseDuration(args[1]); err != nil || p.Duration < 0 {
			return c.Errf("prefetch: duration %q: give how far apart queries may be, such as 1m", args[1])
		}
	}
	if len(args) > 2 {
		pct, isPct := strings.CutSuffix(args[2], "%")
		if p.Percentage, err = strconv.Atoi(pct); err != nil || !isPct || p.Percentage < 10 || p.Percentage > 90 {
			return c.Errf("prefetch: percentage %q: give a whole number from 10%% to 90%%, percent sign included", args[2])
		}
	}
	return nil
}

// parseStale reads [DURATION] [immediate [RESPONSE_TTL [RECHECK]] | verify
// [TIMEOUT [RESPONSE_TTL [RECHECK]]]].
func parseStale(c *caddy.Controller, args []string, s *Stale) error {
	const form = "serve_stale takes [DURATION] [immediate [RESPONSE_TTL [FAILURE_RECHECK]] | verify [VERIFY_TIMEOUT [RESPONSE_TTL [FAILURE_RECHECK]]]]"
	*s = Stale{UpTo: DefaultStale, PreferPositive: s.PreferPositive}
	into := []*time.Duration{&s.UpTo, nil, &s.ResponseTTL, &s.Recheck}
	names := []string{"duration", "", "response TTL", "failure recheck"}
	if len(args) > 1 {
		switch strings.ToLower(args[1]) {
		case "immediate":
		case "verify":
			s.Verify = true
			into = []*time.Duration{&s.UpTo, nil, &s.VerifyTimeout, &s.ResponseTTL, &s.Recheck}
			names = []string{"duration", "", "verify timeout", "response TTL", "failure recheck"}
		default:
			return c.Errf("serve_stale: refresh mode %q is neither immediate nor verify: %s", args[1], form)
		}
	}
	if len(args) > len(into) {
		return c.Errf("serve_stale: %q is too much: %s", args[len(into)], form)
	}
	for i, a := range args {
		if into[i] == nil {
			continue
		}
		d, err := time.ParseDuration(a)
		if err != nil {
			return c.Errf("serve_stale: %s %q is not a duration such as 30s or 1h: %s", names[i], a, form)
		}
		*into[i] = d
	}
	if err := s.validate(); err != nil {
		return c.Err(err.Error())
	}
	return nil
}

// parseRFC8767 reads [DURATION]: serve_stale as RFC 8767 recommends it.
func parseRFC8767(c *caddy.Controller, args []string, cfg *Config, seen map[string]bool) error {
	if seen["serve_stale"] {
		return c.Err("stale together with serve_stale: keep one, they set the same")
	}
	up := RFCStale
	if len(args) > 1 {
		return c.Errf("stale takes [DURATION], found %d arguments", len(args))
	}
	if len(args) == 1 {
		d, err := time.ParseDuration(args[0])
		if err != nil || d <= 0 {
			return c.Errf("stale: %q is not a duration such as 24h; RFC 8767 recommends 24h to 72h", args[0])
		}
		up = d
	}
	cfg.Stale = Stale{
		UpTo: up, Verify: true, VerifyTimeout: rfcClientTimer, ResponseTTL: rfcStaleTTL, Recheck: rfcRecheck,
		PreferPositive: cfg.Stale.PreferPositive,
	}
	seen["serve_stale"] = true
	return nil
}

func parseServFail(c *caddy.Controller, args []string, cfg *Config) error {
	if len(args) != 1 {
		return c.Errf("servfail needs one DURATION, found %d arguments", len(args))
	}
	d, err := time.ParseDuration(args[0])
	if err != nil || d < 0 || d > MaxServFail {
		return c.Errf("servfail: %q: give a duration from 0 (SERVFAIL is not cached) to %v, the most that RFC 2308 permits", args[0], MaxServFail)
	}
	cfg.ServFail = d
	// TTLs are whole seconds, so less than one means not to keep failures.
	if d < time.Second {
		cfg.ServFail = -1
	}
	return nil
}

// parseDisable reads success|denial [ZONES...].
func parseDisable(c *caddy.Controller, args []string, cfg *Config) error {
	var into *[]string
	switch {
	case len(args) > 0 && args[0] == "success":
		into = &cfg.Success.Disable
	case len(args) > 0 && args[0] == "denial":
		into = &cfg.Denial.Disable
	default:
		return c.Errf("disable needs success or denial, then zones or nothing for all zones; found %q", strings.Join(args, " "))
	}
	zones := []string{}
	for _, a := range args[1:] {
		z := plugin.Name(a).Normalize()
		if _, ok := dns.IsDomainName(z); !ok || z == "" {
			return c.Errf("disable %s: %q is not a domain name", args[0], a)
		}
		zones = append(zones, z)
	}
	if len(zones) == 0 {
		zones = append(zones, ".")
	}
	*into = zones
	return nil
}

func parseMaxMem(c *caddy.Controller, args []string, cfg *Config) error {
	if len(args) != 1 {
		return c.Errf("maxmem needs one SIZE, found %d arguments", len(args))
	}
	n, ok := parseSize(args[0])
	if !ok || n < MinMaxMemory {
		return c.Errf("maxmem: %q: give a size of at least 2MiB, such as 64MiB or 1GiB", args[0])
	}
	cfg.MaxMem = n
	return nil
}

// parseSize reads a number of bytes with an optional unit K, M or G, which is
// a power of 1024, and may be followed by B or iB.
func parseSize(s string) (int64, bool) {
	digits := strings.TrimRight(s, "KMGTiBkmgtb")
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n < 0 {
		return 0, false
	}
	shift, ok := map[string]uint{"": 0, "B": 0, "K": 10, "KB": 10, "KIB": 10, "M": 20, "MB": 20, "MIB": 20, "G": 30, "GB": 30, "GIB": 30}[strings.ToUpper(s[len(digits):])]
	if !ok || n > math.MaxInt64>>shift {
		return 0, false
	}
	return n << shift, true
}

func parseCoalesce(c *caddy.Controller, args []string, cfg *Config) error {
	if len(args) == 1 && args[0] == "off" {
		cfg.Coalesce = -1
		return nil
	}
	if len(args) == 1 {
		if n, err := strconv.Atoi(args[0]); err == nil && n > 0 {
			cfg.Coalesce = n
			return nil
		}
	}
	return c.Errf("coalesce %s: give off, or how many queries may wait for a running one, such as %d", strings.Join(args, " "), DefaultCoalesce)
}

func parseFastPath(c *caddy.Controller, args []string, f *FastPath) error {
	if len(args) == 1 {
		for _, m := range []FastPathMode{FastPathAuto, FastPathOn, FastPathOff} {
			if args[0] == m.String() {
				f.Mode = m
				return nil
			}
		}
	}
	return c.Errf("fastpath %s: give on, off or auto", strings.Join(args, " "))
}

func parseCount(c *caddy.Controller, name, what string, args []string, most int, into *int) error {
	if len(args) == 1 {
		if n, err := strconv.Atoi(args[0]); err == nil && n > 0 && n <= most {
			*into = n
			return nil
		}
	}
	return c.Errf("%s %s: give the number of %s, from 1 to %d", name, strings.Join(args, " "), what, most)
}
