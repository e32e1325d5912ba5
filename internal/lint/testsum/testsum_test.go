package testsum

import (
	"fmt"
	"slices"
	"strings"
	"testing"
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
	if fs := r.ForgiveAll("m\tTestA\trace\n"); len(fs) != 1 || fs[0].Test != "TestA" || fs[0].Stage != "race" {
		t.Errorf("%+v", fs)
	}
	if got, want := r.Counts(), (Counts{Passed: 2}); got != want {
		t.Errorf("counts %v, want %v", got, want)
	}
	r = addAll(t, busy+`{"Action":"fail","Package":"m","Test":"TestOther"}`+"\n")
	r.Forgive("m", "TestA")
	if got, want := r.Counts(), (Counts{Passed: 2, Failed: 1}); got != want {
		t.Errorf("counts %v, want %v", got, want)
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
