package sides

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"github.com/miekg/dns"

	"github.com/penstock/penstock/dnsplugin/internal/store"
	"github.com/penstock/penstock/dnsplugin/internal/wire"
)

// newSides returns empty sides with the policy p.
func newSides(t *testing.T, p Policy, disableSuccess, disableDenial []string) *Sides {
	t.Helper()
	s, err := New(Options{Disable: disableSuccess}, Options{Disable: disableDenial}, p, time.Unix(0, 0))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// ident returns the question for the address of name.
func ident(t *testing.T, s *Sides, name string) *Ident {
	t.Helper()
	var buf [wire.MaxNameLen + 1]byte
	n, err := dns.PackDomainName(name, buf[:], 0, nil, false)
	if err != nil {
		t.Fatal(err)
	}
	id := &Ident{Key: wire.AppendKey(nil, buf[:n], dns.TypeA, dns.ClassINET, false, false)}
	id.Hash = s.Hash(id.Key)
	return id
}

// put stores a response to id with the given code, that is usable for a day
// after it expires.
func put(t *testing.T, s *Sides, kind Kind, id *Ident, rcode int, ttl uint32, at store.Instant) *store.Entry {
	t.Helper()
	m := new(dns.Msg)
	name, _, err := dns.UnpackDomainName(id.Name(), 0)
	if err != nil {
		t.Fatal(err)
	}
	m.SetQuestion(name, dns.TypeA)
	m.Response, m.Rcode = true, rcode
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	a, _, err := wire.NewAnswer(b)
	if err != nil {
		t.Fatal(err)
	}
	e, _ := s.Both()[kind].Store.Put(id.Hash, id.Key, store.NewRecord(a, at, ttl, 24*time.Hour), at)
	if e == nil {
		t.Fatal("not stored")
	}
	return e
}

// The scripts in testdata/decide hold one policy each, and for every state of
// an entry the decision: its action, the TTL of the reply, and whether that is
// stale.
func TestDecide(t *testing.T) {
	datadriven.Walk(t, "testdata/decide", func(t *testing.T, path string) {
		var p Policy
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			switch d.Cmd {
			case "policy":
				p = policyOf(t, d.CmdArgs)
				return ""
			case "decide":
				var out strings.Builder
				for line := range strings.Lines(d.Input) {
					fmt.Fprintln(&out, decideRow(t, p, strings.Fields(line)))
				}
				return out.String()
			}
			t.Fatalf("unknown command %q", d.Cmd)
			return ""
		})
	})
}

func policyOf(t *testing.T, args []datadriven.CmdArg) (p Policy) {
	t.Helper()
	seconds := func(v string) time.Duration {
		d, err := time.ParseDuration(v)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	for _, a := range args {
		switch a.Key {
		case "prefetch": // AMOUNT, PERCENTAGE
			p.Prefetch = Prefetch{Amount: number(t, a.Vals[0]), Percentage: number(t, a.Vals[1]), Duration: time.Minute}
		case "verify":
			p.Stale.Verify = true
		case "timeout":
			p.Stale.VerifyTimeout = seconds(a.Vals[0])
		case "recheck":
			p.Stale.Recheck = seconds(a.Vals[0])
		case "stalettl":
			p.Stale.TTL = uint32(number(t, a.Vals[0]))
		case "keepttl":
			p.KeepTTL = true
		default:
			t.Fatalf("unknown option %q", a.Key)
		}
	}
	return p
}

func number(t *testing.T, text string) int {
	t.Helper()
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// decideRow decides for one entry, described by fields: ttl=SECONDS, age=SECONDS
// since it was stored, hits=N counted before this query, running, and paused.
func decideRow(t *testing.T, p Policy, fields []string) string {
	t.Helper()
	s := newSides(t, p, nil, nil)
	ttl, age, hits, running, paused := 60, 0, 0, false, false
	for _, f := range fields {
		k, v, _ := strings.Cut(f, "=")
		switch k {
		case "none":
			action, ttl, stale := s.Decide(nil, 0)
			return row(fields, action, ttl, stale)
		case "ttl":
			ttl = number(t, v)
		case "age":
			age = number(t, v)
		case "hits":
			hits = number(t, v)
		case "running":
			running = true
		case "paused":
			paused = true
		default:
			t.Fatalf("unknown field %q", f)
		}
	}
	id := ident(t, s, "www.example.org.")
	e := put(t, s, Success, id, dns.RcodeSuccess, uint32(ttl), 0)
	at := store.Instant(age) * store.Instant(time.Second)
	e.Hits.Store(uint32(hits))
	e.LastHit.Store(int64(at))
	e.Refreshing.Store(running)
	if paused {
		e.RetryAfter.Store(int64(at + 1))
	}
	peek := s.Peek(e, at)
	if n := int(e.Hits.Load()); n != hits {
		t.Errorf("%v: Peek counted a hit", fields)
	}
	action, reply, stale := s.Decide(e, at)
	if peek != action && action != ServeAndRefresh {
		t.Errorf("%v: Peek says %v, Decide %v", fields, peek, action)
	}
	return row(fields, action, reply, stale)
}

func row(fields []string, action Action, ttl uint32, stale bool) string {
	out := fmt.Sprintf("%s: %v, ttl %d", strings.Join(fields, " "), action, ttl)
	if stale {
		out += ", stale"
	}
	return out
}

// A hit is counted only where prefetching needs it, and a popular entry is
// written to once per Sampling.
func TestDecideCountsHits(t *testing.T) {
	const second = store.Instant(time.Second)
	for _, amount := range []int{0, 2} {
		s := newSides(t, Policy{Prefetch: Prefetch{Amount: amount, Duration: time.Minute, Percentage: 10}}, nil, nil)
		e := put(t, s, Success, ident(t, s, "www.example.org."), dns.RcodeSuccess, 3600, 0)
		for i := range store.Instant(4) {
			s.Decide(e, i*second/10)
		}
		if hits, last := int(e.Hits.Load()), e.LastHit.Load(); hits != amount || amount > 0 && last != int64(second/10) {
			t.Errorf("amount %d: %d hits, the latest at %d", amount, hits, last)
		}
		s.Decide(e, 2*second)
		if last := e.LastHit.Load(); amount > 0 && last != int64(2*second) {
			t.Errorf("amount %d: the latest hit is noted at %d", amount, last)
		}
		s.Decide(e, 100*second) // after a gap above Duration
		if hits := int(e.Hits.Load()); hits != min(amount, 1) {
			t.Errorf("amount %d: %d hits after a gap", amount, hits)
		}
	}
}

func TestClaimAdmitsOneRefresh(t *testing.T) {
	s := newSides(t, Policy{Stale: Stale{Recheck: 30 * time.Second}}, nil, nil)
	id := ident(t, s, "www.example.org.")
	e := put(t, s, Success, id, dns.RcodeSuccess, 60, 0)
	at := store.Instant(100 * time.Second)
	if !s.Claim(e, at, true) || s.Claim(e, at, true) || s.Claim(e, at, false) {
		t.Fatal("a second claim")
	}
	s.Release(e, id, at, true, false)
	if s.Claim(e, at, true) {
		t.Error("claimed during the pause after a failed refresh")
	}
	if !s.Claim(e, at, false) {
		t.Error("the pause applies to fresh entries")
	}
	s.Unclaim(e)
	if at = at.Add(30 * time.Second); !s.Claim(e, at, true) {
		t.Error("not claimed after the pause")
	}
	s.Release(e, id, at, true, true)
	if !s.Claim(e, at, true) {
		t.Error("not claimed after a refresh that succeeded")
	}
}

func TestCoalescesByName(t *testing.T) {
	on := Policy{Coalesce: true}
	for _, tt := range []struct {
		name            string
		policy          Policy
		success, denial []string
		qtype           uint16
		want            bool
	}{
		{"www.example.org.", on, nil, nil, dns.TypeA, true},
		{"www.example.org.", Policy{}, nil, nil, dns.TypeA, false},
		{"www.example.org.", on, nil, nil, dns.TypeHINFO, false},
		{"www.example.org.", on, []string{"cluster.local."}, nil, dns.TypeA, true},
		{"A.Cluster.Local.", on, []string{"cluster.local."}, nil, dns.TypeA, false},
		{"cluster.local.", on, []string{"cluster.local."}, nil, dns.TypeA, false},
		{"acluster.local.", on, []string{"cluster.local."}, nil, dns.TypeA, true},
		{"a.cluster.local.", on, nil, []string{"x.", "Cluster.Local."}, dns.TypeA, false},
		{"www.example.org.", on, []string{"."}, nil, dns.TypeA, false},
	} {
		s := newSides(t, tt.policy, tt.success, tt.denial)
		if got := s.Coalesces(ident(t, s, tt.name).Name(), tt.qtype); got != tt.want {
			t.Errorf("%s %d, disabled %v %v: %v", tt.name, tt.qtype, tt.success, tt.denial, got)
		}
	}
}

func TestLookupOrder(t *testing.T) {
	for _, tt := range []struct {
		rcode  int // of the denial; -1 if there is none
		answer bool
		prefer bool
		want   Kind
		none   bool
	}{
		{rcode: -1, none: true},
		{rcode: -1, answer: true, want: Success},
		{rcode: dns.RcodeNameError, answer: true, want: Denial},
		{rcode: dns.RcodeServerFailure, answer: true, want: Success},
		{rcode: dns.RcodeServerFailure, want: Denial},
		{rcode: dns.RcodeNameError, answer: true, prefer: true, want: Success},
	} {
		s := newSides(t, Policy{Stale: Stale{PreferAnswers: tt.prefer}}, nil, nil)
		id := ident(t, s, "www.example.org.")
		want := [2]*store.Entry{}
		if tt.answer {
			want[Success] = put(t, s, Success, id, dns.RcodeSuccess, 60, 0)
			want[Success].Answering = true
		}
		if tt.rcode >= 0 {
			want[Denial] = put(t, s, Denial, id, tt.rcode, 60, 0)
		}
		e, kind := s.Lookup(id, 0)
		if tt.none != (e == nil) || e != nil && (kind != tt.want || e != want[tt.want]) {
			t.Errorf("%+v: %v %v", tt, e != nil, kind)
		}
	}
}
