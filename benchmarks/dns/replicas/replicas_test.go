package main

import (
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"github.com/penstock/penstock/benchmarks/internal/bench"
	"github.com/penstock/penstock/internal/dnsload"
)

func TestAnswersAreThoseOfTheZones(t *testing.T) {
	t.Parallel()
	const ttl = 17
	mix := dnsload.NewMix(dnsload.MixOptions{Services: 200, Queries: 20_000, TTL: ttl, Seed: 1})
	tr, err := newTrace(mix)
	if err != nil {
		t.Fatal(err)
	}
	distinct := mix.Distinct()
	if len(tr.Answers) != len(distinct) || len(tr.Asks) != len(mix.Queries) {
		t.Fatalf("%d answers to %d questions, %d queries of %d", len(tr.Answers), len(distinct), len(tr.Asks), len(mix.Queries))
	}
	kinds := map[string]int{}
	for i, b := range tr.Answers {
		var m dns.Msg
		if err := m.Unpack(b); err != nil {
			t.Fatal(err)
		}
		if q := m.Question[0]; q.Name != distinct[i].Name || q.Qtype != distinct[i].Type {
			t.Fatalf("answer %d is to %v, not to %v", i, q, distinct[i])
		}
		switch {
		case m.Rcode == dns.RcodeNameError:
			kinds["NXDOMAIN"]++
		case len(m.Answer) == 0:
			kinds["NODATA"]++
		default:
			kinds[dns.TypeToString[m.Question[0].Qtype]]++
		}
		for _, rr := range append(m.Answer, m.Ns...) {
			if rr.Header().Ttl != ttl {
				t.Errorf("TTL of %v", rr)
			}
		}
		if len(m.Answer) == 0 && (len(m.Ns) != 1 || m.Ns[0].Header().Rrtype != dns.TypeSOA) {
			t.Errorf("a denial without SOA: %v", m)
		}
	}
	for _, k := range []string{"NXDOMAIN", "NODATA", "A", "AAAA", "SRV"} {
		if kinds[k] == 0 {
			t.Errorf("no answer is %s: %v", k, kinds)
		}
	}
}

// A small run as a whole: the simulator reads our trace, and its counts agree
// with theory.
func TestSimulate(t *testing.T) {
	t.Parallel()
	bin := filepath.Join(t.TempDir(), "simulator")
	if err := bench.Build(t.Context(), bin, simulator); err != nil {
		t.Fatal(err)
	}
	o := options{services: 100, queries: 20_000, seed: 1, replicas: []int{1, 4, 16}}
	r, err := simulate(t.Context(), bin, setting{rate: 20_000, ttl: 5, measure: 20}, o)
	if err != nil {
		t.Fatal(err)
	}
	for i, x := range r.results {
		if got, want := x.upstream(), r.expected[i]; math.Abs(got-want) > 0.1*want {
			t.Errorf("%d replicas: %.0f/s, theory says %.0f/s", x.Replicas, got, want)
		}
		if i > 0 && x.Misses < r.results[i-1].Misses {
			t.Errorf("%d replicas ask less than %d", x.Replicas, r.results[i-1].Replicas)
		}
	}
	plot := filepath.Join(t.TempDir(), plotFile)
	if err := writePlot(plot, []run{r}); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(plot); err != nil || !strings.Contains(string(b), "<svg") {
		t.Errorf("plot: %v", err)
	}
	if _, err := simulate(t.Context(), bin, setting{rate: 0, ttl: 5, measure: 20}, o); err == nil || !strings.Contains(err.Error(), "rate") {
		t.Errorf("the simulator's complaint is lost: %v", err)
	}
}

func TestVerdict(t *testing.T) {
	t.Parallel()
	for misses, ok := range map[int64]bool{6001: true, 5999: false} {
		r := run{setting: setting{rate: targetRate, ttl: targetTTL}, weights: []int{1}, expected: []float64{1, 1}, results: []result{
			{Replicas: few, Seconds: 10, Queries: 10_000, Misses: 100},
			{Replicas: many, Seconds: 10, Queries: 10_000, Misses: misses},
		}}
		res := report(options{}, []run{r})
		if len(res.Verdicts) != 1 || res.Verdicts[0].OK != ok {
			t.Errorf("%d misses: %+v", misses, res.Verdicts)
		}
	}
}

func TestThousands(t *testing.T) {
	t.Parallel()
	for n, want := range map[int]string{0: "0", 999: "999", 6250: "6,250", 1_000_000: "1,000,000"} {
		if got := thousands(n); got != want {
			t.Errorf("%d is printed as %s", n, got)
		}
	}
}

func TestOptionsSayWhatIsWrong(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"x"}, {"-services", "0"}, {"-queries", "-1"}, {"-nonsense"}} {
		if _, err := parseOptions(args); err == nil {
			t.Errorf("%v: no error", args)
		}
	}
}
