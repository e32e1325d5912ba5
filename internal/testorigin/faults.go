package testorigin

import (
	"fmt"
	"hash/fnv"
	"math"
	"sync"
	"time"
)

// Action is the effect of a fault on a request.
type Action string

// The actions. At is a position in the body (see AtHeader and AtRandom). For
// uploads it is the body of the request, otherwise of the answer.
const (
	// ActStatus answers with Status (default 503), Retry-After if RetryAfter is
	// set, and the S3 code Error.
	ActStatus Action = "status"
	// ActStall waits before the header or inside the body at At, for the time
	// For, or until the client goes away if For is 0.
	ActStall Action = "stall"
	// ActTruncate promises the whole body and closes the connection after At bytes.
	ActTruncate Action = "truncate"
	// ActReset sends a TCP RST before the header or inside the body at At.
	ActReset Action = "reset"
	// ActShort answers a range with Bytes (default 1) fewer bytes than
	// requested, with a header that agrees with the body.
	ActShort Action = "short"
	// ActWrongLength sends Bytes (default 1) fewer bytes with a Content-Length
	// to match, but the requested Content-Range.
	ActWrongLength Action = "wrong-length"
	// ActWrongRange sends the right bytes under a Content-Range that is Bytes
	// (default 1) too high.
	ActWrongRange Action = "wrong-range"
	// ActWrongTotal sends the right bytes under a Content-Range whose total is
	// Bytes (default 1) too high.
	ActWrongTotal Action = "wrong-total"
	// ActIgnoreRange answers 200 with the whole object to a ranged request.
	ActIgnoreRange Action = "ignore-range"
	// ActMultipart answers a ranged request with a one-part
	// multipart/byteranges body.
	ActMultipart Action = "multipart"
	// ActSwap replaces the object, before it is read, by the file File, or by a
	// version of the same size in which every byte differs. Running GETs keep
	// the version that they opened.
	ActSwap Action = "swap"
	// ActExpire answers as if the credentials or the presigned URL had expired.
	// A redirecting GetBlob returns an expired URL.
	ActExpire Action = "expire"
	// ActStuckToken makes a listing return the same page and the same
	// continuation token again.
	ActStuckToken Action = "stuck-token"
	// ActFlip sends Bytes (default 1) wrong bytes at At (default: a random
	// position).
	ActFlip Action = "flip"
	// ActSlow sends at Rate bytes per second.
	ActSlow Action = "slow"
	// ActHeader sets a header of the answer ("Name: value"), or removes it
	// ("Name:").
	ActHeader Action = "header"
	// ActPage answers with Status (default 200) and a page of HTML, as a proxy
	// in maintenance does.
	ActPage Action = "page"
	// ActEmpty answers 200 with the headers of the object, or of another
	// document, and no body.
	ActEmpty Action = "empty"
	// ActClose answers properly and then closes the connection.
	ActClose Action = "close"
)

// Special values of Fault.At.
const (
	// AtHeader is the position after the header and before the first byte of
	// the body. The zero value of At is before the header.
	AtHeader int64 = -1
	// AtRandom is a position inside the body drawn from the seed.
	AtRandom int64 = -2
)

// Fault is one rule of a fault script. It fires if all conditions that are set
// hold. A request on which several rules fire gets all their effects. Each rule
// numbers the requests that match its Op and Key, from 1 and separately for
// each operation and key.
//
// Whether a rule fires on request k of a key is a function of the seed, the
// rule's place in the script, the operation, the key and k. Other keys and the
// order of goroutines have no influence, except that Max counts over all keys.
type Fault struct {
	// Op is a glob over operation names (GetObject, HeadObject, ListObjectsV2,
	// PutObject, UploadPart, GetBlob, GetManifest, Token, FetchBlob, ...); ""
	// is any.
	Op string
	// Key is a glob over counter keys ("bucket/key", "repo@digest",
	// "repo:tag"); * matches / too; "" is any.
	Key string
	// PerRange numbers requests by their Range header as well, so that a replay
	// of parallel ranged requests gets the same faults in any order of
	// requests.
	PerRange bool

	Nth         int     // only request Nth
	Every       int     // requests Every, 2*Every, ...
	First       int     // requests 1 to First
	After       int     // requests after the first After
	Probability float64 // share of the requests, drawn from the seed
	Max         int     // most firings, over all keys

	Action Action
	At     int64         // stall, truncate, reset, flip
	For    time.Duration // stall
	Bytes  int64         // short, wrong-*, flip
	Rate   int64         // slow: bytes per second
	Status int           // status
	Error  string        // status: S3 or registry error code; default by status
	// RetryAfter is sent in whole seconds, or as an HTTP date that far in the
	// future if RetryDate is set.
	RetryAfter time.Duration
	RetryDate  bool
	File       string // swap
	Header     string // header
}

// Validate returns the first mistake in f.
func (f Fault) Validate() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("testorigin: fault %q: %s", f.String(), fmt.Sprintf(format, args...))
	}
	switch f.Action {
	case ActStatus, ActStall, ActTruncate, ActReset, ActShort, ActWrongLength, ActWrongRange, ActWrongTotal, ActIgnoreRange,
		ActMultipart, ActSwap, ActExpire, ActStuckToken, ActFlip, ActPage, ActEmpty, ActClose:
	case ActSlow:
		if f.Rate <= 0 {
			return bad("rate %d must be positive; give rate=BYTES per second", f.Rate)
		}
	case ActHeader:
		if headerName(f.Header) == "" {
			return bad("header %q is not \"Name: value\"", f.Header)
		}
	case "":
		return bad("no action; name one, for example status, stall, truncate or reset")
	default:
		return bad("action %q is unknown; use status, stall, truncate, reset, short, wrong-length, wrong-range, wrong-total, "+
			"ignore-range, multipart, swap, expire, stuck-token, flip, slow, header, page, empty or close", f.Action)
	}
	for _, c := range f.Op {
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || c == '2' || c == '*' || c == '?') {
			return bad("op %q is not a glob over operation names; write for example GetObject or Get*", f.Op)
		}
	}
	switch {
	case f.Probability < 0 || f.Probability > 1 || math.IsNaN(f.Probability):
		return bad("p %v is not a share; use a number from 0 to 1", f.Probability)
	case f.Nth < 0 || f.Every < 0 || f.First < 0 || f.After < 0 || f.Max < 0:
		return bad("nth, every, first, after and max count requests; they can't be negative")
	case f.At < AtRandom:
		return bad("at %d is before the body; use a byte count, header or random", f.At)
	case f.For < 0 || f.RetryAfter < 0 || f.Bytes < 0 || f.Rate < 0:
		return bad("durations and sizes can't be negative")
	case f.Status != 0 && (f.Status < 200 || f.Status > 599):
		return bad("code %d is not an HTTP status; use 200 to 599", f.Status)
	}
	return nil
}

// rule is a Fault with its counts, which faultSet.mu guards.
type rule struct {
	Fault
	calls map[string]int64
	fired int64
}

// faultSet is one script. SetFaults replaces it as a whole.
type faultSet struct {
	seed  uint64
	rules []*rule

	// mu guards the counts of all rules, because all rules must count concurrent
	// requests in the same order. Otherwise a rule for the first request and one
	// for the second could fire on the same request. It is a leaf lock.
	mu sync.Mutex
}

func newFaultSet(seed uint64, faults []Fault) *faultSet {
	fs := &faultSet{seed: seed}
	for _, f := range faults {
		fs.rules = append(fs.rules, &rule{Fault: f, calls: map[string]int64{}})
	}
	return fs
}

// firing is one rule that fired on one request.
type firing struct {
	Fault
	draw uint64 // random bits of this firing, for positions
}

// effects are the firings of one request, in script order.
type effects []firing

// eval counts the request for every rule that matches it, and returns the rules
// that fire.
func (fs *faultSet) eval(op, key, rangeHeader string) effects {
	if len(fs.rules) == 0 {
		return nil
	}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	var out effects
	for i, r := range fs.rules {
		if !glob(r.Op, op) || !glob(r.Key, key) {
			continue
		}
		name := op + "\x00" + key
		if r.PerRange {
			name += "\x00" + rangeHeader
		}
		r.calls[name]++
		k := r.calls[name]
		draw := decide(fs.seed, i, name, k)
		fires := r.holds(k, draw) && (r.Max == 0 || r.fired < int64(r.Max))
		if fires {
			r.fired++
			out = append(out, firing{r.Fault, mix(draw)})
		}
	}
	return out
}

// holds reports whether the rule fires on request k with the random bits draw.
// It is pure.
func (f *Fault) holds(k int64, draw uint64) bool {
	switch {
	case f.Nth > 0 && k != int64(f.Nth),
		f.Every > 0 && k%int64(f.Every) != 0,
		f.First > 0 && k > int64(f.First),
		f.After > 0 && k <= int64(f.After):
		return false
	}
	return f.Probability == 0 || share(draw) < f.Probability
}

// decide returns the random bits of request k of name under rule i.
func decide(seed uint64, i int, name string, k int64) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(name))
	return mix(mix(mix(seed)^uint64(i)) ^ mix(h.Sum64()) ^ mix(uint64(k)*0x9e3779b97f4a7c15))
}

// mix is the finalizer of splitmix64: every output bit depends on every input bit.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// share maps random bits to [0, 1).
func share(x uint64) float64 { return float64(x>>11) / (1 << 53) }

// find returns the first firing of action, or nil.
func (e effects) find(a Action) *firing {
	for i := range e {
		if e[i].Action == a {
			return &e[i]
		}
	}
	return nil
}

func (e effects) names() []string {
	if len(e) == 0 {
		return nil
	}
	out := make([]string, len(e))
	for i := range e {
		out[i] = e[i].String()
	}
	return out
}

// size is Bytes or its default, at most limit.
func (f *firing) size(limit int64) int64 {
	n := f.Bytes
	if n == 0 {
		n = 1
	}
	return min(n, limit)
}

// position resolves At for a body of n bytes. It is always before the end, so
// that a fault that fires has an effect.
func (f *firing) position(n int64) int64 {
	at := f.At
	if at == AtRandom || (f.Action == ActFlip && at <= 0) {
		if n <= 0 {
			return 0
		}
		return int64(f.draw % uint64(n))
	}
	return max(0, min(at, n-1))
}

// SetFaults replaces the fault script and sets its counts to zero. Running
// requests keep their effects. SetFaults panics if a fault is invalid. To get an
// error instead, for a script from a user, use ParseFaults first.
func (o *Origin) SetFaults(faults ...Fault) {
	for _, f := range faults {
		if err := f.Validate(); err != nil {
			panic(err)
		}
	}
	o.faults.Store(newFaultSet(o.opts.Seed, faults))
}

// FaultCount counts how often a rule fired.
type FaultCount struct {
	Fault   Fault
	Matched int64 // requests that its Op and Key matched
	Fired   int64
}

// FaultCounts returns the counts of all rules, in script order.
func (o *Origin) FaultCounts() []FaultCount {
	fs := o.faults.Load()
	fs.mu.Lock()
	defer fs.mu.Unlock()
	out := make([]FaultCount, len(fs.rules))
	for i, r := range fs.rules {
		out[i] = FaultCount{Fault: r.Fault, Fired: r.fired}
		for _, n := range r.calls {
			out[i].Matched += n
		}
	}
	return out
}

// glob matches s against a pattern in which * is any run of bytes (/ too), ?
// one byte, and \ takes the next byte literally. The empty pattern matches
// everything.
func glob(pattern, s string) bool {
	if pattern == "" {
		return true
	}
	p, i := 0, 0
	star, mark := -1, 0 // the last *, and the end of its match in s
	for i < len(s) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, mark = p, i
			p++
			continue
		case p < len(pattern) && pattern[p] == '\\' && p+1 < len(pattern) && pattern[p+1] == s[i]:
			p, i = p+2, i+1
			continue
		case p < len(pattern) && pattern[p] != '\\' && (pattern[p] == '?' || pattern[p] == s[i]):
			p, i = p+1, i+1
			continue
		}
		if star < 0 {
			return false
		}
		mark++
		p, i = star+1, mark
	}
	for p < len(pattern) && pattern[p] == '*' {
		p++
	}
	return p == len(pattern)
}
