package main

import (
	"strings"
	"testing"
	"time"

	"github.com/penstock/penstock/benchmarks/internal/bench"
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
		report(&r, m)
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
	for _, args := range [][]string{{"x"}, {"-rounds", "0"}, {"-services", "0"}, {"-nonsense"}} {
		if _, err := parseOptions(args); err == nil {
			t.Errorf("%v: no error", args)
		}
	}
}
