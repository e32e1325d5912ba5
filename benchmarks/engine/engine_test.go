package main

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/penstock/penstock/benchmarks/internal/bench"
	"github.com/penstock/penstock/internal/ranges"
	"github.com/penstock/penstock/internal/testorigin"
)

func TestOptionsSayWhatIsWrong(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{
		{"big"}, {"-rounds", "0"}, {"-part", "4096"}, {"-budget", "1048576"}, {"-only", "tiny"}, {"-size", "1"}, {"-nonsense"},
	} {
		if _, err := parseOptions(args); !errors.Is(err, bench.ErrUsage) {
			t.Errorf("%v: error %v, want a usage error", args, err)
		}
	}
	if _, err := parseOptions([]string{"-quick"}); err != nil {
		t.Errorf("-quick: %v", err)
	}
}

func TestScriptsParse(t *testing.T) {
	t.Parallel()
	for _, sc := range scenarios() {
		if _, err := testorigin.ParseFaults(sc.plan.Faults); err != nil {
			t.Errorf("%s: %v", sc.name, err)
		}
	}
}

func TestSinkSeesWrongAndMissingBytes(t *testing.T) {
	t.Parallel()
	ref := []byte("the object")
	cases := map[string]struct {
		write func(*sink)
		err   error
		want  error
	}{
		"right":           {func(s *sink) { s.writeAt(ref[4:], 4); s.writeAt(ref[:4], 0) }, nil, nil},
		"wrong byte":      {func(s *sink) { s.writeAt([]byte("the 0bject"), 0) }, nil, errCorrupt},
		"missing":         {func(s *sink) { s.writeAt(ref[:4], 0) }, nil, errCorrupt},
		"too long":        {func(s *sink) { s.writeAt([]byte("the object!"), 0) }, nil, errCorrupt},
		"an honest error": {func(s *sink) { s.writeAt([]byte("xx"), 0) }, ranges.ErrChanged, ranges.ErrChanged},
	}
	for name, c := range cases {
		s := &sink{ref: ref}
		c.write(s)
		if err := s.check(c.err); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

// measured makes a case with the given CPU time for a GB of each contestant.
func measured(name, outcome string, cpu map[string]time.Duration) bench.Measured {
	m := bench.Measured{Name: name}
	for _, c := range []string{oursName, plainName, managerName, getName} {
		m.Contestants = append(m.Contestants, c)
		m.Ours = append(m.Ours, c == oursName)
		m.Samples = append(m.Samples, []bench.Sample{{
			CPU: cpu[c], Wall: cpu[c], Bytes: 1e9, MaxRSS: 100 * mib, Outcome: outcome,
		}})
	}
	return m
}

func TestVerdicts(t *testing.T) {
	t.Parallel()
	good := map[string]time.Duration{oursName: 200 * time.Millisecond, plainName: 180 * time.Millisecond, managerName: 300 * time.Millisecond, getName: time.Second}
	slow := map[string]time.Duration{oursName: 400 * time.Millisecond, plainName: 180 * time.Millisecond, managerName: 300 * time.Millisecond, getName: time.Second}
	o := options{budget: 256 * mib, faultSize: 1e9}
	cases := []struct {
		name   string
		report func(*bench.Result)
		failed int
	}{
		{"good", func(r *bench.Result) { reportThroughput(r, o, measured("x", bench.OutcomeOK, good), "X") }, 0},
		{"slow", func(r *bench.Result) { reportThroughput(r, o, measured("x", bench.OutcomeOK, slow), "X") }, 3},
		{"all runs failed", func(r *bench.Result) { reportThroughput(r, o, measured("x", bench.OutcomeError, good), "X") }, 3},
		{"faults", func(r *bench.Result) {
			reportFaults(r, o, []bench.Measured{
				measured(cleanCase, bench.OutcomeOK, good), measured(allCase, bench.OutcomeOK, good), measured(replacedCase, bench.OutcomeTyped, good),
			})
		}, 0},
		{"faults that failed", func(r *bench.Result) {
			reportFaults(r, o, []bench.Measured{
				measured(cleanCase, bench.OutcomeOK, good), measured(allCase, bench.OutcomeError, good), measured(replacedCase, bench.OutcomeCorrupt, good),
			})
		}, 2},
	}
	for _, c := range cases {
		var r bench.Result
		c.report(&r)
		if got := len(r.Failed()); got != c.failed {
			t.Errorf("%s: %d targets missed, want %d: %+v", c.name, got, c.failed, r.Failed())
		}
		var page strings.Builder
		r.Print(&page)
		if !strings.Contains(page.String(), oursName) {
			t.Errorf("%s: no row of ours:\n%s", c.name, page.String())
		}
	}
}
