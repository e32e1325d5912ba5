package main

import (
	"bytes"
	"encoding/gob"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// response is a packed answer with the given TTL, a denial if no address is
// wanted.
func response(t testing.TB, name string, ttl uint32, denial bool) []byte {
	t.Helper()
	m := new(dns.Msg)
	m.SetQuestion(name, dns.TypeA)
	m.Response = true
	head := func(rrtype uint16) dns.RR_Header {
		return dns.RR_Header{Name: name, Rrtype: rrtype, Class: dns.ClassINET, Ttl: ttl}
	}
	if denial {
		m.Rcode = dns.RcodeNameError
		m.Ns = []dns.RR{&dns.SOA{Hdr: head(dns.TypeSOA), Ns: "ns.", Mbox: "host.", Minttl: ttl / 2}}
	} else {
		m.Answer = []dns.RR{&dns.A{Hdr: head(dns.TypeA), A: []byte{192, 0, 2, 1}}}
	}
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// zipfTrace asks for n names, of which every other one does not exist.
func zipfTrace(t testing.TB, n, asks int, ttl uint32) Trace {
	t.Helper()
	var tr Trace
	for i := range n {
		tr.Answers = append(tr.Answers, response(t, fmt.Sprintf("n%d.example.", i), ttl, i%2 == 1))
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	z := rand.NewZipf(rnd, 1.1, 1, uint64(n-1))
	for range asks {
		tr.Asks = append(tr.Asks, uint32(z.Uint64()))
	}
	return tr
}

func play(t *testing.T, tr Trace, o Options, n int) Result {
	t.Helper()
	p, err := newPlayer(tr, o)
	if err != nil {
		t.Fatal(err)
	}
	r, err := p.play(n)
	if err != nil {
		t.Fatal(err)
	}
	if r.Hits+r.Misses != r.Queries {
		t.Errorf("%d replicas: %d hits and %d misses of %d queries", n, r.Hits, r.Misses, r.Queries)
	}
	if want := int64(float64(o.Rate) * o.Measure.Seconds()); r.Queries != want {
		t.Errorf("%d replicas got %d queries of %d", n, r.Queries, want)
	}
	return r
}

// The misses of one name are the fewest intervals of a TTL that cover all its
// queries. The intervals of two replicas together cover the queries of both, so
// joining two replicas cannot add a miss. This is true from the empty cache on.
func TestMoreReplicasNeverAskLess(t *testing.T) {
	t.Parallel()
	tr := zipfTrace(t, 500, 20_000, 4)
	for seed := range uint64(2) {
		before := Result{}
		for _, n := range []int{1, 4, 16, 64, 256} {
			r := play(t, tr, Options{Rate: 5000, Measure: 12 * time.Second, Bytes: 1 << 20, Seed: seed}, n)
			if r.Misses < before.Misses {
				t.Errorf("seed %d: %d replicas missed %d times, %d replicas %d times", seed, before.Replicas, before.Misses, n, r.Misses)
			}
			if r.Evicted > 0 {
				t.Errorf("%d replicas evicted %d entries", n, r.Evicted)
			}
			before = r
		}
	}
}

func TestEqualSeedsGiveEqualResults(t *testing.T) {
	t.Parallel()
	tr := zipfTrace(t, 300, 10_000, 6)
	o := Options{Rate: 3000, Warm: 6 * time.Second, Measure: 12 * time.Second, Bytes: 1 << 20, Seed: 7}
	a, b := play(t, tr, o, 9), play(t, tr, o, 9)
	if a != b {
		t.Errorf("%+v and %+v", a, b)
	}
	if o.Seed++; play(t, tr, o, 9) == a {
		t.Error("another seed spreads the queries in the same way")
	}
}

// One name, asked every 100 ms, with 3 s to live: a miss every 3 s. Its
// denial lives for the SOA's MINIMUM, which is half of that here, rounded down.
func TestOneNameMissesOnceInATTL(t *testing.T) {
	t.Parallel()
	for denial, want := range map[bool]int64{false: 10, true: 30} {
		tr := Trace{Answers: [][]byte{response(t, "one.example.", 3, denial)}, Asks: []uint32{0}}
		r := play(t, tr, Options{Rate: 10, Warm: 6 * time.Second, Measure: 30 * time.Second}, 1)
		if r.Misses != want || r.Entries != 1 {
			t.Errorf("denial %v: %+v, want %d misses", denial, r, want)
		}
	}
}

// Arrivals at random, with rate λ in each replica, are missed λ/(1+λT) times a
// second by a cache that keeps an answer for T (a renewal process).
func TestMissesAreThoseOfTheory(t *testing.T) {
	t.Parallel()
	const ttl = 8
	tr := zipfTrace(t, 400, 100_000, ttl)
	weights := make([]float64, len(tr.Answers))
	for _, q := range tr.Asks {
		weights[q]++
	}
	for _, n := range []int{1, 5, 50} {
		o := Options{Rate: 1000, Warm: 2 * ttl * time.Second, Measure: 80 * time.Second, Bytes: 1 << 20, Seed: 3}
		got := float64(play(t, tr, o, n).Misses) / o.Measure.Seconds()
		want := 0.0
		for i, w := range weights {
			rate := float64(o.Rate) * w / float64(len(tr.Asks)) / float64(n)
			life := float64(ttl)
			if i%2 == 1 {
				life /= 2 // see response
			}
			want += float64(n) * rate / (1 + rate*life)
		}
		if math.Abs(got-want) > 0.03*want {
			t.Errorf("%d replicas: %.1f misses/s, theory says %.1f", n, got, want)
		}
	}
}

// A store that is too small asks more, and says that it evicts.
func TestSmallStoresEvict(t *testing.T) {
	t.Parallel()
	tr := zipfTrace(t, 20_000, 0, 60)
	for i := range tr.Answers {
		tr.Asks = append(tr.Asks, uint32(i))
	}
	o := Options{Rate: 20_000, Measure: 5 * time.Second}
	large := play(t, tr, o, 1)
	o.Bytes = 1 << 20
	small := play(t, tr, o, 1)
	if large.Evicted != 0 || small.Evicted == 0 || small.Misses <= large.Misses {
		t.Errorf("large %+v, small %+v", large, small)
	}
}

func TestQueriesAreSpreadEvenly(t *testing.T) {
	t.Parallel()
	p, err := newPlayer(zipfTrace(t, 2, 10, 5), Options{Rate: 100_000, Measure: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	const n = 100
	order, ends := p.share(n)
	seen := make([]bool, len(order))
	start := 0
	for r, end := range ends {
		// 1,000 are expected, with a standard deviation of 31.
		if got := end - start; math.Abs(float64(got-1000)) > 6*31 {
			t.Errorf("replica %d has %d queries", r, got)
		}
		for k, i := range order[start:end] {
			if seen[i] || k > 0 && order[start+k-1] >= i {
				t.Fatalf("replica %d: query %d comes twice or out of order", r, i)
			}
			seen[i] = true
		}
		start = end
	}
}

func TestRunReadsATraceAndPrintsResults(t *testing.T) {
	t.Parallel()
	var in, out bytes.Buffer
	if err := gob.NewEncoder(&in).Encode(zipfTrace(t, 20, 100, 5)); err != nil {
		t.Fatal(err)
	}
	if err := run([]string{"-replicas", "1,2", "-rate", "100", "-warm", "1s", "-measure", "2s"}, &in, &out); err != nil {
		t.Fatal(err)
	}
	dec := json.NewDecoder(&out)
	for _, n := range []int{1, 2} {
		var r Result
		if err := dec.Decode(&r); err != nil || r.Replicas != n || r.Queries != 200 {
			t.Errorf("%+v %v", r, err)
		}
	}
	if dec.More() {
		t.Error("more than was asked for")
	}
}

func TestMistakesAreNamed(t *testing.T) {
	t.Parallel()
	good := zipfTrace(t, 2, 4, 5)
	noSOA := response(t, "a.example.", 5, true)
	noSOA = noSOA[:12+11+4]
	noSOA[9] = 0
	for _, tt := range []struct {
		args  []string
		trace Trace
		want  string
	}{
		{[]string{"x"}, good, "flags only"},
		{[]string{"-replicas", "1,two"}, good, "two"},
		{[]string{"-replicas", "0"}, good, "give 1 to"},
		{[]string{"-rate", "0"}, good, "at least 1"},
		{[]string{"-measure", "10000h"}, good, "too many"},
		{[]string{"-bytes", "5"}, good, "too few"},
		{nil, Trace{Answers: good.Answers}, "asks nothing"},
		{nil, Trace{Answers: good.Answers, Asks: []uint32{2}}, "answer 2 of 2"},
		{nil, Trace{Answers: [][]byte{{1, 2}}, Asks: []uint32{0}}, "answer 0"},
		{nil, Trace{Answers: [][]byte{noSOA}, Asks: []uint32{0}}, "SOA"},
		{nil, Trace{Answers: [][]byte{response(t, "a.example.", 0, false)}, Asks: []uint32{0}}, "TTL is 0"},
	} {
		var in bytes.Buffer
		if err := gob.NewEncoder(&in).Encode(tt.trace); err != nil {
			t.Fatal(err)
		}
		if err := run(tt.args, &in, io.Discard); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%v: %v, want %q", tt.args, err, tt.want)
		}
	}
	if err := run(nil, strings.NewReader("no gob"), io.Discard); err == nil || !strings.Contains(err.Error(), "trace") {
		t.Errorf("no gob: %v", err)
	}
}
