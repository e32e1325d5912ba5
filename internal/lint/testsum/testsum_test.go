package testsum

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// shortLog and fullLog are two stages of one run: what the short stage leaves
// out the full one does.
const (
	shortLog = `{"Action":"run","Package":"m/a","Test":"TestBig"}
{"Action":"output","Package":"m/a","Test":"TestBig","Output":"    a_test.go:9: short mode: a minute\n"}
{"Action":"skip","Package":"m/a","Test":"TestBig"}
{"Action":"run","Package":"m/a","Test":"TestSmall"}
{"Action":"pass","Package":"m/a","Test":"TestSmall/one"}
{"Action":"pass","Package":"m/a","Test":"TestSmall/two"}
{"Action":"pass","Package":"m/a","Test":"TestSmall"}
{"Action":"pass","Package":"m/a"}
{"Action":"skip","Package":"m/nothing"}
`
	fullLog = `{"Action":"pass","Package":"m/a","Test":"TestBig"}
{"Action":"output","Package":"m/a","Test":"TestPrivMount","Output":"    b_test.go:3: needs root: mounting\n"}
{"Action":"skip","Package":"m/a","Test":"TestPrivMount"}
{"Action":"pass","Package":"m/a"}
`
)

func addAll(t *testing.T, logs ...string) *Run {
	t.Helper()
	var r Run
	for i, l := range logs {
		if err := r.AddTests(fmt.Sprintf("stage%d", i), strings.NewReader(l)); err != nil {
			t.Fatal(err)
		}
	}
	return &r
}

func TestCountsLeavesOverStages(t *testing.T) {
	t.Parallel()
	r := addAll(t, shortLog, fullLog)
	r.AddStages("vet\tpass\t\n")
	if got, want := r.Counts(), (Counts{Passed: 4, Skipped: 1}); got != want {
		t.Errorf("counts %v, want %v", got, want)
	}
	skips := r.Skips()
	if len(skips) != 1 || skips[0].Reason != "needs root: mounting" {
		t.Errorf("skips = %+v", skips)
	}
}

// TestAgain: what may be run again, and what that makes of the run.
func TestAgain(t *testing.T) {
	t.Parallel()
	const busy = `{"Action":"output","Package":"m","Test":"TestA/b","Output":"    a_test.go:9: late\n"}
{"Action":"fail","Package":"m","Test":"TestA/b"}
{"Action":"fail","Package":"m","Test":"TestA"}
{"Action":"pass","Package":"m","Test":"TestC"}
{"Action":"fail","Package":"m"}
`
	many := ""
	for i := range maxAgain {
		many += fmt.Sprintf(`{"Action":"fail","Package":"n","Test":"Test%d"}`+"\n", i)
	}
	for name, tt := range map[string]struct {
		log  string
		want []string
	}{
		"one":       {busy, []string{"TestA"}},
		"too many":  {busy + many, nil},
		"as many":   {many, []string{"Test0", "Test1", "Test2"}},
		"a race":    {strings.Replace(busy, "late", "WARNING: DATA RACE", 1), nil},
		"a panic":   {strings.Replace(busy, "late", "panic: test timed out", 1), nil},
		"a leak":    {busy + `{"Action":"output","Package":"n","Output":"goleak: Errors on successful test run: found unexpected goroutines:\n"}` + "\n" + `{"Action":"fail","Package":"n"}` + "\n", nil},
		"a package": {busy + `{"Action":"fail","Package":"n"}` + "\n", nil},
	} {
		var got []string
		for _, o := range addAll(t, tt.log).Again() {
			got = append(got, o.Test)
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
	}
	r := addAll(t, busy)
	if fs := r.MarkAllUnsteady("m\tTestA\trace\n"); len(fs) != 1 || fs[0].Test != "TestA" || fs[0].Stage != "race" {
		t.Errorf("%+v", fs)
	}
	if got, want := r.Counts(), (Counts{Passed: 1, Unsteady: 1}); got != want {
		t.Errorf("counts %v, want %v", got, want)
	}
	r = addAll(t, busy+`{"Action":"fail","Package":"m","Test":"TestOther"}`+"\n")
	r.MarkUnsteady("m", "TestA")
	if got, want := r.Counts(), (Counts{Passed: 1, Failed: 1, Unsteady: 1}); got != want {
		t.Errorf("counts %v, want %v", got, want)
	}
}

// An unsteady test fails the run unless the list excuses it, and the list can
// excuse it for two weeks at most.
func TestExcuse(t *testing.T) {
	t.Parallel()
	known, err := ReadKnown(strings.NewReader("# why\n\ndnsplugin TestA dns 2026-12-10 a socket in blocking mode\nsoci TestB soci 2026-12-30 x\n"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ pkg, test, today, want string }{
		{"github.com/penstock/penstock/dnsplugin", "TestA", "2026-12-01", ""},
		{"github.com/penstock/penstock/dnsplugin", "TestA", "2026-12-10", ""},
		{"github.com/penstock/penstock/dnsplugin", "TestA", "2026-12-11", "dns had time until 2026-12-10"},
		{"github.com/penstock/penstock/dnsplugin", "TestB", "2026-12-01", "list it"},
		{"github.com/penstock/penstock/soci", "TestB", "2026-12-01", "more than 14 days ahead"},
		{"github.com/penstock/penstock/soci", "TestB", "2026-12-16", ""},
		{"github.com/penstock/penstock/mydnsplugin", "TestA", "2026-12-01", "list it"},
	} {
		day, err := time.Parse(time.DateOnly, c.today)
		if err != nil {
			t.Fatal(err)
		}
		got := Excuse(Outcome{Package: c.pkg, Test: c.test}, known, day.Add(13*time.Hour))
		if c.want == "" && got != "" || !strings.Contains(got, c.want) {
			t.Errorf("%s %s on %s: %q, want %q", c.pkg, c.test, c.today, got, c.want)
		}
	}
	for _, s := range []string{"dnsplugin TestA dns 2026-12-10", "dnsplugin TestA dns tomorrow why", "a T o 2026-12-10 x\na T p 2026-12-11 y"} {
		if _, err := ReadKnown(strings.NewReader(s)); err == nil {
			t.Errorf("%q is accepted", s)
		}
	}
}

// The gate itself: a run with an unsteady test is red unless the test is listed,
// and the closing line counts it apart.
func TestSummaryOfUnsteadyTests(t *testing.T) {
	t.Parallel()
	day := time.Date(2026, 12, 1, 9, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		name, unsteady, known string
		ok                    bool
		want                  string
	}{
		{"steady", "", "", false, "0 passed, 1 failed"}, // nothing passed when it was run again
		{"unlisted", "m\tTestA\tunit\n", "", false, "0 passed, 0 failed, 0 skipped, 1 unsteady"},
		{"listed", "m\tTestA\tunit\n", "m TestA me 2026-12-09 a timer", true, "0 passed, 0 failed, 0 skipped, 1 unsteady"},
		{"listed too long", "m\tTestA\tunit\n", "m TestA me 2026-11-30 a timer", false, "me had time until 2026-11-30"},
	} {
		dir := t.TempDir()
		files := map[string]string{
			"stages.tsv": "",
			"unit.json":  `{"Action":"fail","Package":"m","Test":"TestA"}` + "\n" + `{"Action":"fail","Package":"m"}` + "\n",
			"known":      c.known,
		}
		if c.unsteady != "" {
			files["unsteady.tsv"] = c.unsteady
		}
		for name, content := range files {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		var out strings.Builder
		ok, err := WriteSummary(&out, dir, filepath.Join(dir, "known"), Machine{}, day)
		if err != nil || ok != c.ok || !strings.Contains(out.String(), c.want) {
			t.Errorf("%s: ok %v, %v, want %v and %q in\n%s", c.name, ok, err, c.ok, c.want, &out)
		}
	}
}

// Over many commits every fuzz target comes first about as often as the others.
func TestRotateIsFair(t *testing.T) {
	t.Parallel()
	list := []string{"a", "b", "c", "d", "e", "f", "g"}
	first := map[string]int{}
	for i := range 7000 {
		got := Rotate(list, fmt.Sprintf("%040x", i*2654435761))
		first[got[0]]++
		at := slices.Index(list, got[0])
		if len(got) != len(list) || got[1] != list[(at+1)%len(list)] {
			t.Fatalf("%q is not a rotation of %q", got, list)
		}
	}
	for _, s := range list {
		if n := first[s]; n < 800 || n > 1200 {
			t.Errorf("%s comes first %d times of 7000, want about 1000", s, n)
		}
	}
	if got := Rotate(list, ""); !slices.Equal(got, list) {
		t.Errorf("without a seed: %q", got)
	}
	if got := Rotate(nil, "x"); len(got) != 0 {
		t.Errorf("of nothing: %q", got)
	}
}

func TestFailuresAreCountedOnce(t *testing.T) {
	t.Parallel()
	cases := map[string]struct {
		log  string
		want Counts
	}{
		"subtest fails its parents": {`{"Action":"fail","Package":"m","Test":"TestA/b"}
{"Action":"fail","Package":"m","Test":"TestA"}
{"Action":"fail","Package":"m"}`, Counts{Failed: 1}},
		"parent fails alone": {`{"Action":"pass","Package":"m","Test":"TestA/b"}
{"Action":"fail","Package":"m","Test":"TestA"}
{"Action":"fail","Package":"m"}`, Counts{Passed: 1, Failed: 1}},
		"package does not build": {`{"ImportPath":"m","Action":"build-output","Output":"x.go:1:1: no\n"}
{"ImportPath":"m","Action":"build-fail"}
{"Action":"fail","Package":"m","FailedBuild":"m"}`, Counts{Failed: 1}},
		"process dies inside a test": {`{"Action":"output","Package":"m","Test":"TestA","Output":"panic: no\n"}
{"Action":"fail","Package":"m"}`, Counts{Failed: 1}},
		"go test itself refuses": {`pattern ./...: directory prefix . does not contain main module`, Counts{Failed: 1}},
		"retried stage fails later": {`{"Action":"pass","Package":"m","Test":"TestA"}
{"Action":"fail","Package":"m","Test":"TestA"}`, Counts{Failed: 1}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := addAll(t, c.log).Counts(); got != c.want {
				t.Errorf("counts %v, want %v", got, c.want)
			}
		})
	}
}

func TestMachineContradicts(t *testing.T) {
	t.Parallel()
	full := Machine{Root: true, Fuse: true, NetNS: true, Has: func(p string) bool { return p == "dnsperf" }}
	user := Machine{}
	cases := []struct {
		reason     string
		full, user bool // contradicted on that machine
	}{
		{"needs root: mounting", true, false},
		{"needs root and /dev/fuse: mounting", true, false},
		{"needs network namespaces: the lab", true, false},
		{"needs /dev/fuse and CAP_SYS_ADMIN: operation not permitted", true, false},
		{"needs tool dnsperf: the load", true, false},
		{"needs tool kdig: the load", false, false},
		{"needs two CPUs: a race", false, false},
		{"short mode: a minute", false, false},
	}
	for _, c := range cases {
		if got := full.Contradicts(c.reason) != ""; got != c.full {
			t.Errorf("with everything, %q contradicted = %v, want %v", c.reason, got, c.full)
		}
		if got := user.Contradicts(c.reason) != ""; got != c.user {
			t.Errorf("as a user, %q contradicted = %v, want %v", c.reason, got, c.user)
		}
	}
	// One missing need is enough for the skip to stand.
	noFuse := Machine{Root: true}
	if why := noFuse.Contradicts("needs root and /dev/fuse: mounting"); why != "" {
		t.Errorf("root without /dev/fuse contradicted: %s", why)
	}
}

func TestUnjustifiedSkipsFail(t *testing.T) {
	t.Parallel()
	r := addAll(t, fullLog)
	bad := r.Unjustified(Machine{Root: true})
	if len(bad) != 1 || bad[0].Test != "TestPrivMount" {
		t.Fatalf("unjustified = %+v", bad)
	}
	if got, want := r.Counts(), (Counts{Passed: 1, Failed: 1}); got != want {
		t.Errorf("counts %v, want %v", got, want)
	}
}

func ExampleRun() {
	var r Run
	if err := r.AddTests("unit", strings.NewReader(shortLog)); err != nil {
		fmt.Println(err)
	}
	r.AddStage("vet", Pass, "")
	fmt.Println(r.Counts())
	for _, s := range r.Skips() {
		fmt.Println(s.Test, "-", s.Reason)
	}
	// Output:
	// 3 passed, 0 failed, 1 skipped
	// TestBig - short mode: a minute
}

// FuzzAddTests: the log is what test binaries print, so anything can be in it.
func FuzzAddTests(f *testing.F) {
	f.Add(shortLog)
	f.Add(`{"Action":"fail","Test":"/"}` + "\n" + `{"Action":"skip","Package":"a","Test":"//"}`)
	f.Add("not json\n")
	f.Fuzz(func(t *testing.T, log string) {
		var r Run
		if err := r.AddTests("s", strings.NewReader(log)); err != nil {
			t.Skip("a line longer than the bound")
		}
		c := r.Counts()
		if c.Failed != len(r.Failures()) || c.Skipped != len(r.Skips()) {
			t.Errorf("counts %v, %d failures, %d skips", c, len(r.Failures()), len(r.Skips()))
		}
	})
}
