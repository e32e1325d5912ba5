package main

import (
	"strings"
	"testing"
	"time"

	"github.com/penstock/penstock/benchmarks/internal/bench"
	"github.com/penstock/penstock/internal/dnsload"
)

func TestPerAnswerIsMicroseconds(t *testing.T) {
	t.Parallel()
	s := bench.Sample{CPU: time.Second, Wall: 2 * time.Second, Bytes: 100_000, Outcome: bench.OutcomeOK}
	if us, ok := perAnswer(s); !ok || us < 9.99 || us > 10.01 {
		t.Errorf("%v us", us)
	}
}

func TestReport(t *testing.T) {
	t.Parallel()
	sample := func(cpu time.Duration) []bench.Sample {
		return []bench.Sample{{CPU: cpu, Wall: time.Second, Bytes: 1000, Outcome: bench.OutcomeOK, Extra: map[string]float64{extraP50: 1, extraP99: 2, extraLost: 0}}}
	}
	for ours, failed := range map[time.Duration]int{500 * time.Millisecond: 0, 3 * time.Second: 1} {
		m := bench.Measured{Contestants: []string{oursName, stockName}, Ours: []bool{true, false}, Samples: [][]bench.Sample{sample(ours), sample(2 * time.Second)}}
		var r bench.Result
		report(&r, "", m, []target{{"CPU", oursName, stockName, perAnswer, maxOfStock, ""}})
		if len(r.Failed()) != failed {
			t.Errorf("ours %v: %+v", ours, r.Verdicts)
		}
	}
}

func TestServerBlocks(t *testing.T) {
	t.Parallel()
	if b := cacheBody("127.0.0.1:53", 9153, ""); !strings.Contains(b, "forward . 127.0.0.1:53") || !strings.Contains(b, "cache 3600") {
		t.Error(b)
	}
	if b := zonesBody(map[string]string{"cluster.local": "/z"}); !strings.Contains(b, "file /z cluster.local") {
		t.Error(b)
	}
}

func TestOptionsSayWhatIsWrong(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"x"}, {"-rounds", "0"}, {"-services", "0"}, {"-only", "cached,nonsense"}, {"-nonsense"}} {
		if _, err := parseOptions(args); err == nil {
			t.Errorf("%v: no error", args)
		}
	}
}

func TestCollectionsOfALog(t *testing.T) {
	t.Parallel()
	const log = `gc 7 @1.234s 2%: 0.018+1.2+0.013 ms clock, 0.1+0.2/0.3/0.4+0.5 ms cpu, 4->4->1 MB, 4 MB goal, 0 MB stacks, 0 MB globals, 1 P
[INFO] something else
gc 8 @2.5s 2%: 0.01+1.2+0.013 ms clock, 1+2/3/0+4 ms cpu, 4->4->1 MB, 4 MB goal, 0 MB stacks, 0 MB globals, 1 P
`
	if n, cpu := collectionsAfter(log, 7); n != 1 || cpu != 10*time.Millisecond {
		t.Error(n, cpu)
	}
}

// The questions that are left have answers of at most 512 bytes.
func TestMixFits(t *testing.T) {
	t.Parallel()
	all, fit := dnsload.NewMix(dnsload.MixOptions{Services: 500, Queries: 20_000, Seed: 1}), newMix(500, 20_000)
	if n, of := len(fit.Queries), len(all.Queries); n > of*999/1000 || n < of*9/10 {
		t.Errorf("%d of %d questions", n, of)
	}
}
