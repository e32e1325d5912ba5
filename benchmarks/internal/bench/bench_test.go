package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The test binary is its own contestant: this variable names its action.
const roleVar = "BENCH_TEST_ROLE"

func TestMain(m *testing.M) {
	switch os.Getenv(roleVar) {
	case "":
		os.Exit(m.Run())
	case "work":
		buf := bytes.Repeat([]byte{1}, 64<<20)
		end := time.Now().Add(120 * time.Millisecond)
		n := 0
		for time.Now().Before(end) {
			n += bytes.Count(buf, []byte{1})
		}
		if err := PrintReport(os.Stdout, Report{Bytes: int64(n), Seconds: 0.12, Outcome: OutcomeOK}); err != nil {
			os.Exit(3)
		}
	case "fail":
		fmt.Fprintln(os.Stderr, "no such bucket")
		os.Exit(1)
	case "corrupt":
		fmt.Println(`{"bytes":1,"outcome":"corrupt","error":"byte 0 differs"}`)
		os.Exit(1)
	case "hang":
		untilSignal()
	case "server":
		fmt.Println("ready")
		untilSignal()
	}
	os.Exit(0)
}

// untilSignal waits for a signal, as a server does.
func untilSignal() {
	ch := make(chan os.Signal, 1)
	signal.Notify(ch, syscall.SIGTERM)
	<-ch
}

func self(t *testing.T, name, role string) Contestant {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return Contestant{Name: name, Argv: []string{exe}, Env: []string{roleVar + "=" + role}}
}

func TestExecAccountsForTheProcess(t *testing.T) {
	t.Parallel()
	s, err := Exec(t.Context(), self(t, "w", "work"))
	if err != nil {
		t.Fatal(err)
	}
	if s.Outcome != OutcomeOK || s.Bytes == 0 {
		t.Errorf("sample %+v", s)
	}
	if s.CPU <= 0 || s.CPU > time.Minute {
		t.Errorf("CPU %v", s.CPU)
	}
	if _, err := os.Stat("/proc/self/status"); err == nil && s.MaxRSS < 64<<20 {
		t.Errorf("MaxRSS %d, though the process held 64 MiB", s.MaxRSS)
	}
	if s.Wall != 120*time.Millisecond {
		t.Errorf("Wall %v: the report's seconds should win", s.Wall)
	}
}

func TestExecOutcomes(t *testing.T) {
	t.Parallel()
	cases := []struct{ role, outcome, text string }{
		{"fail", OutcomeError, "no such bucket"},
		{"corrupt", OutcomeCorrupt, "byte 0 differs"},
		{"hang", OutcomeHung, "killed after"},
	}
	for _, c := range cases {
		t.Run(c.role, func(t *testing.T) {
			t.Parallel()
			x := self(t, c.role, c.role)
			if c.role == "hang" {
				x.Stop = 100 * time.Millisecond
			}
			s, err := Exec(t.Context(), x)
			if err != nil {
				t.Fatal(err)
			}
			if s.Outcome != c.outcome || !strings.Contains(s.Error, c.text) {
				t.Errorf("outcome %q, error %q; want %q, %q", s.Outcome, s.Error, c.outcome, c.text)
			}
		})
	}
}

func TestExecRefusesAProgramThatIsNotThere(t *testing.T) {
	t.Parallel()
	if _, err := Exec(t.Context(), Contestant{Name: "x", Argv: []string{"/nonexistent/program"}}); err == nil {
		t.Error("no error")
	}
	if _, err := Exec(t.Context(), Contestant{Name: "x"}); err == nil || !strings.Contains(err.Error(), "set Argv") {
		t.Errorf("error %v", err)
	}
}

func TestMeasureInterleavesAndRotates(t *testing.T) {
	t.Parallel()
	a, b := self(t, "a", "fail"), self(t, "b", "fail")
	var order []string
	m, err := Measure(t.Context(), Case{
		Name: "c", Contestants: []Contestant{a, b}, Rounds: 2, Warmup: 1,
		Before: func(_ context.Context, c Contestant) error { order = append(order, c.Name); return nil },
		After:  func(_ context.Context, _ Contestant, s *Sample) error { s.Requests = 7; return nil },
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := strings.Join(order, ""), "abbaab"; got != want {
		t.Errorf("order %s, want %s", got, want)
	}
	if len(m.Of("a")) != 2 || m.Of("a")[1].Requests != 7 || m.Of("nobody") != nil {
		t.Errorf("samples %+v", m.Samples)
	}
}

func TestMeasureStopsAtTheDeadlineAfterOneRound(t *testing.T) {
	t.Parallel()
	m, err := Measure(t.Context(), Case{
		Name: "c", Contestants: []Contestant{self(t, "a", "fail")}, Rounds: 5,
		Deadline: time.Now().Add(-time.Second),
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(m.Of("a")); n != 1 {
		t.Errorf("%d samples, want 1", n)
	}
}

func TestServerStops(t *testing.T) {
	t.Parallel()
	c := self(t, "s", "server")
	s, err := StartServer(c.Argv, c.Env)
	if err != nil {
		t.Fatal(err)
	}
	if s.RSS() < 0 || s.CPU() < 0 {
		t.Error("negative cost")
	}
	s.Stop()
	select {
	case <-s.Exited():
	default:
		t.Error("still there after Stop")
	}
	err = s.WaitReady(t.Context(), func(context.Context) error { return os.ErrNotExist })
	if err == nil {
		t.Error("a server that ended became ready")
	}
}

func TestStatCPU(t *testing.T) {
	t.Parallel()
	line := "42 (a b) c) S 1 42 42 0 -1 4194560 1 0 0 0 100 20 3 4 20 0 1 0 99 0 0"
	if got, want := statCPU(line), 127*clockTick; got != want {
		t.Errorf("statCPU = %v, want %v", got, want)
	}
	for _, bad := range []string{"", "1 (x", "1 (x) S 1 2"} {
		if got := statCPU(bad); got != 0 {
			t.Errorf("statCPU(%q) = %v", bad, got)
		}
	}
}

func TestSpread(t *testing.T) {
	t.Parallel()
	cases := []struct {
		v    []float64
		want Spread
	}{
		{nil, Spread{}},
		{[]float64{3}, Spread{3, 3, 3, 1}},
		{[]float64{3, 1, 2}, Spread{2, 1, 3, 3}},
		{[]float64{4, 1, 2, 3}, Spread{2.5, 1, 4, 4}},
	}
	for _, c := range cases {
		if got := spread(c.v); got != c.want {
			t.Errorf("spread(%v) = %+v, want %+v", c.v, got, c.want)
		}
	}
}

func TestResultWrites(t *testing.T) {
	t.Parallel()
	m := ThisMachine()
	m.Date = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	m.Commit = "abc"
	r := Result{
		Area: "engine", Command: "make bench AREA=engine", Machine: m,
		Tables:   []Table{{Title: "T", Columns: []string{"who", "CPU"}, Rows: [][]string{{"ours", "0.1"}, {"theirs"}}}},
		Verdicts: []Verdict{AtMost("cheap", 0.1, 0.2, "s"), AtMost("unmeasured", 0, 0.2, "s")},
		Notes:    []string{"loopback"},
		Charts:   []Chart{{Title: "CPU", Unit: "s/GB", Bars: []Bar{{"ours", Spread{2, 1, 3, 3}, true}, {"theirs", Spread{4, 4, 4, 1}, false}}}},
	}
	if len(r.Failed()) != 1 {
		t.Errorf("failed %+v", r.Failed())
	}
	dir, err := r.Write(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if filepath.Base(dir) != "2026-11-24-abc" {
		t.Errorf("dir %s", dir)
	}
	page, err := os.ReadFile(filepath.Join(dir, "table.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"| ours   | 0.1 |", "**missed**", "loopback", "plot.svg", "commit abc"} {
		if !strings.Contains(string(page), want) {
			t.Errorf("table.md lacks %q:\n%s", want, page)
		}
	}
	svg, err := os.ReadFile(filepath.Join(dir, "plot.svg"))
	if err != nil || !bytes.Contains(svg, []byte("</svg>")) {
		t.Errorf("plot.svg: %v", err)
	}
	raw, err := os.ReadFile(filepath.Join(dir, "result.json"))
	if err != nil {
		t.Fatal(err)
	}
	var back Result
	if err := json.Unmarshal(raw, &back); err != nil || back.Machine.Commit != "abc" {
		t.Errorf("result.json: %v", err)
	}
}

// No block of an object may equal another one, because then bytes in the wrong
// place would not be noticed.
func TestObjectsHaveNoEqualBlocks(t *testing.T) {
	dir := t.TempDir()
	seen := map[string]string{}
	for name, salt := range map[string]int64{"a": 0, "b": 1 << 40} {
		path := filepath.Join(dir, name)
		if err := WriteObject(path, 5*mib+17, salt); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if len(b) != 5*mib+17 {
			t.Errorf("%s has %d bytes", name, len(b))
		}
		for i := 0; i+mib <= len(b); i += mib {
			block := string(b[i : i+mib])
			if other, ok := seen[block]; ok {
				t.Errorf("%s at %d MiB equals %s", name, i/mib, other)
			}
			seen[block] = name
			if bytes.Count(b[i:i+mib], []byte{0}) > mib/100 {
				t.Errorf("%s at %d MiB is mostly zeros", name, i/mib)
			}
		}
	}
}

func ExampleFormatSpread() {
	fmt.Println(FormatSpread(Spread{Median: 0.171, Min: 0.165, Max: 0.18, N: 5}, 1, 3))
	fmt.Println(FormatSpread(Spread{}, 1, 3))
	// Output:
	// 0.171 (0.165-0.180)
	// -
}

func TestPortable(t *testing.T) {
	got := portable([]string{"/opt/x/engine", "ours", "-data=/dev/shm/y", "-n", "3", "http://127.0.0.1:1/a"})
	if want := "engine ours -data=y -n 3 http://127.0.0.1:1/a"; strings.Join(got, " ") != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
