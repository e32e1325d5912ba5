package dnsplugin

import (
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coredns/caddy"
)

func parse(text string) (Config, error) {
	c := caddy.NewTestController("dns", text)
	c.ServerBlockKeys = []string{"example.org"}
	return Parse(c)
}

func TestParse(t *testing.T) {
	block := func(lines ...string) string { return "penstock {\n" + strings.Join(lines, "\n") + "\n}" }
	tests := []struct {
		text string
		want Config // without Zones if they are the zones of the server block
	}{
		{"penstock", Config{}},
		{"penstock 10", Config{Success: Side{TTL: 10 * time.Second}, Denial: Side{TTL: 10 * time.Second}}},
		{"penstock 10 miek.nl 10.0.0.0/8", Config{Zones: []string{"miek.nl.", "10.in-addr.arpa."}, Success: Side{TTL: 10 * time.Second}, Denial: Side{TTL: 10 * time.Second}}},
		{"penstock example.com", Config{Zones: []string{"example.com."}}},
		{"penstock {\n}", Config{}},
		{block("success 10"), Config{Success: Side{Capacity: 10}}},
		{block("success 0"), Config{Success: Side{Capacity: 1}}},
		{block("success 5000 120 0"), Config{Success: Side{Capacity: 5000, TTL: 2 * time.Minute, MinTTL: -1}}},
		{block("success 5000", "success 6000"), Config{Success: Side{Capacity: 6000}}},
		{block("denial 5000 120 7"), Config{Denial: Side{Capacity: 5000, TTL: 2 * time.Minute, MinTTL: 7 * time.Second}}},
		{block("prefetch 10"), Config{Prefetch: Prefetch{Amount: 10}}},
		{block("prefetch 10 5m 25%"), Config{Prefetch: Prefetch{Amount: 10, Duration: 5 * time.Minute, Percentage: 25}}},
		{block("prefetch 0"), Config{}},
		{block("serve_stale"), Config{Stale: Stale{UpTo: time.Hour}}},
		{block("stale"), Config{Stale: Stale{UpTo: 24 * time.Hour, Verify: true, VerifyTimeout: 1800 * time.Millisecond, ResponseTTL: 30 * time.Second, Recheck: 30 * time.Second}}},
		{block("warm /var/lib/coredns/warm"), Config{Warm: "/var/lib/coredns/warm"}},
		{block("control /run/coredns/cache.sock"), Config{Control: "/run/coredns/cache.sock"}},
		{block("serve_stale 20m"), Config{Stale: Stale{UpTo: 20 * time.Minute}}},
		{block("serve_stale 1h IMMEDIATE 30s 15s"), Config{Stale: Stale{UpTo: time.Hour, ResponseTTL: 30 * time.Second, Recheck: 15 * time.Second}}},
		{block("serve_stale 1h verify"), Config{Stale: Stale{UpTo: time.Hour, Verify: true}}},
		{
			block("serve_stale 1h Verify 100ms 30s 5m", "serve_stale_policy PREFER_POSITIVE"),
			Config{Stale: Stale{UpTo: time.Hour, Verify: true, VerifyTimeout: 100 * time.Millisecond, ResponseTTL: 30 * time.Second, Recheck: 5 * time.Minute, PreferPositive: true}},
		},
		{block("serve_stale_policy prefer_positive", "serve_stale 2h verify 0"), Config{Stale: Stale{UpTo: 2 * time.Hour, Verify: true, PreferPositive: true}}},
		{block("servfail 1m"), Config{ServFail: time.Minute}},
		{block("servfail 0"), Config{ServFail: -1}},
		{block("servfail 5m"), Config{ServFail: 5 * time.Minute}},
		{block("disable success"), Config{Success: Side{Disable: []string{"."}}}},
		{block("disable denial example.com. example.org"), Config{Denial: Side{Disable: []string{"example.com.", "example.org."}}}},
		{block("keepttl"), Config{KeepTTL: true}},
		{block("maxmem 128MiB"), Config{MaxMem: 128 << 20}},
		{block("maxmem 1g"), Config{MaxMem: 1 << 30}},
		{block("maxmem 3000000"), Config{MaxMem: 3000000}},
		{block("coalesce off"), Config{Coalesce: -1}},
		{block("coalesce 100"), Config{Coalesce: 100}},
		{block("nxcut"), Config{NXCut: NXCut{On: true}}},
		{block("nxcut A.example.org b.example.org."), Config{NXCut: NXCut{On: true, Zones: []string{"a.example.org.", "b.example.org."}}}},
		{block("fastpath auto"), Config{}},
		{block("fastpath on", "workers 4", "batch 32"), Config{FastPath: FastPath{Mode: FastPathOn, Workers: 4, Batch: 32}}},
		{block("fastpath off"), Config{FastPath: FastPath{Mode: FastPathOff}}},
	}
	for _, tt := range tests {
		got, err := parse(tt.text)
		if err != nil {
			t.Errorf("%s: %v", tt.text, err)
			continue
		}
		if tt.want.Zones == nil {
			tt.want.Zones = []string{"example.org."}
		}
		if !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%s:\ngot  %+v\nwant %+v", tt.text, got, tt.want)
		}
	}
}

// Every mistake is refused, with a message that names the file, the line, the
// option and its valid form.
func TestParseRefuses(t *testing.T) {
	tests := []struct{ lines, want string }{
		{"succes 10", `unknown option "succes": allowed are success, denial`},
		{"nxcut .", "nxcut of the root would believe every denial"},
		{"nxcut a..b", `nxcut: zone "a..b" is neither`},
		{"nxcut example.com", `nxcut: zone "example.com." is not within the zones that are cached: example.org.`},
		{"nxcut\nnxcut", "nxcut is given twice"},
		{"workers 0", "workers 0: give the number of sockets"},
		{"workers 1 2", "from 1 to 1024"},
		{"workers 4\nworkers 4", "workers is given twice"},
		{"batch x", "batch x: give the number of queries"},
		{"batch 1025", "from 1 to 1024"},
		{"fastpath", "give on, off or auto"},
		{"fastpath maybe", "fastpath maybe: give on, off or auto"},
		{"warm", "needs one FILE"},
		{"control", "needs one PATH"},
		{"control cache.sock", "give an absolute path of at most 103 bytes"},
		{"control /" + strings.Repeat("x", 103), "at most 103 bytes"},
		{"control /a\ncontrol /b", "control is given twice"},
		{"stale soon", "not a duration"},
		{"stale\nserve_stale", "keep one"},
		{"serve_stale\nstale", "keep one"},
		{"success", "success needs CAPACITY"},
		{"success 1 2 3 4", "found 4 arguments"},
		{"success x", `capacity "x" is not a number`},
		{"success -1", `capacity "-1"`},
		{"success 10 0", `success TTL "0" is not a number of seconds from 1`},
		{"success 10 -5", `success TTL "-5"`},
		{"success 10 99999999999", `success TTL "99999999999"`},
		{"denial 10 5 -1", `denial MINTTL "-1" is not a number of seconds from 0`},
		{"prefetch", "prefetch needs AMOUNT"},
		{"prefetch -1", `amount "-1"`},
		{"prefetch x", `amount "x"`},
		{"prefetch 1 x", `duration "x"`},
		{"prefetch 1 -1m", `duration "-1m"`},
		{"prefetch 1 1m 5%", `percentage "5%"`},
		{"prefetch 1 1m 50", `percentage "50"`},
		{"prefetch 1 1m 95%", "from 10% to 90%"},
		{"prefetch 1 1m 50% x", "found 4 arguments"},
		{"serve_stale x", `duration "x" is not a duration`},
		{"serve_stale -1h", "-1h0m0s is negative"},
		{"serve_stale 1h sometimes", "neither immediate nor verify"},
		{"serve_stale 1h immediate 500ms", "whole number of seconds"},
		{"serve_stale 1h immediate 30s 6m", "failure recheck 6m0s"},
		{"serve_stale 1h immediate 30s 30s 1s", `"1s" is too much`},
		{"serve_stale 1h verify -1s", "verify timeout -1s is negative"},
		{"serve_stale 1h verify 1s 30s 30s 1s", "is too much"},
		{"serve_stale_policy prefer_positive", "needs serve_stale"},
		{"serve_stale\nserve_stale_policy none", "the only policy is prefer_positive"},
		{"serve_stale\nserve_stale_policy prefer_positive\nserve_stale_policy prefer_positive", "given twice"},
		{"servfail", "servfail needs one DURATION"},
		{"servfail x", `servfail: "x"`},
		{"servfail 6m", "from 0 (SERVFAIL is not cached) to 5m0s"},
		{"servfail -1s", `servfail: "-1s"`},
		{"disable", "disable needs success or denial"},
		{"disable everything", "disable needs success or denial"},
		{"disable success a..b", `"a..b" is not a domain name`},
		{"keepttl yes", `keepttl takes no argument, found "yes"`},
		{"maxmem", "maxmem needs one SIZE"},
		{"maxmem 1MiB", "at least 2MiB"},
		{"maxmem lots", `maxmem: "lots"`},
		{"maxmem 64QiB", `maxmem: "64QiB"`},
		{"maxmem 9223372036854775807G", "maxmem"},
		{"maxmem 64MiB\nmaxmem 32MiB", "maxmem is given twice"},
		{"coalesce", "give off, or how many"},
		{"coalesce 0", "coalesce 0"},
		{"coalesce maybe", "coalesce maybe"},
	}
	for _, tt := range tests {
		_, err := parse("penstock {\n" + tt.lines + "\n}")
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%q: %v\nwant %q", tt.lines, err, tt.want)
			continue
		}
		if !strings.HasPrefix(err.Error(), "Testfile:") {
			t.Errorf("%q: no file and line in %v", tt.lines, err)
		}
	}
	for text, want := range map[string]string{
		"penstock 0":             `TTL "0"`,
		"penstock -5":            `TTL "-5"`,
		"penstock 10 a..b":       `zone "a..b"`,
		"penstock\npenstock":     "only be used once",
		"penstock 10 {\n":        "",
		"penstock {\nsuccess 1":  "",
		"penstock example.org {": "",
	} {
		_, err := parse(text)
		if want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

func TestParseErrorsNameTheLine(t *testing.T) {
	_, err := parse("penstock {\nkeepttl\nservfail 1h\n}")
	if err == nil || !strings.HasPrefix(err.Error(), "Testfile:3 ") {
		t.Errorf("%v", err)
	}
}

// FuzzParse checks that no Corefile makes the parser panic, and that an accepted
// one gives a valid configuration.
func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"penstock", "penstock 10 example.org", "penstock {\nsuccess 10 5 0\nserve_stale 1h verify 1s 30s\n}",
		"penstock {\nprefetch 1 1m 50%\ndisable denial\nmaxmem 64MiB\ncoalesce off\n}", "penstock {", "penstock { { }",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		cfg, err := parse(text)
		if err != nil {
			return
		}
		if err := cfg.Validate(); err != nil {
			t.Errorf("%q was taken, but: %v", text, err)
		}
	})
}

func TestValidate(t *testing.T) {
	for want, c := range map[string]Config{
		"negative":             {Success: Side{Capacity: -1}},
		"negative TTL":         {Denial: Side{TTL: -1}},
		"largest that DNS has": {Success: Side{MinTTL: 100 * 365 * 24 * time.Hour}},
		"at most 5m":           {ServFail: time.Hour},
		"too small":            {MaxMem: 1},
		"full domain name":     {Zones: []string{"example.org"}},
		"10% to 90%":           {Prefetch: Prefetch{Percentage: 5}},
		"prefetch amount":      {Prefetch: Prefetch{Amount: -1}},
		"how far apart":        {Prefetch: Prefetch{Duration: -1}},
		"serve_stale duration": {Stale: Stale{UpTo: -1}},
		"on, off or auto":      {FastPath: FastPath{Mode: 3}},
		"workers -1":           {FastPath: FastPath{Workers: -1}},
		"batch 5000":           {FastPath: FastPath{Batch: 5000}},
	} {
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", c, err, want)
		}
		if _, err := New(c); err == nil {
			t.Errorf("New takes %+v", c)
		}
	}
}

// Options without an effect give a warning that states the effect.
func TestRemarks(t *testing.T) {
	for lines, want := range map[string]string{
		"":                                               "",
		"fastpath off":                                   "",
		"workers 2":                                      "",
		"maxmem 2MiB\nsuccess 5000":                      "",
		"nxcut\ndisable denial a.example.org":            "",
		"stale\ndisable denial":                          "",
		"fastpath off\nworkers 2":                        "workers and batch have no effect: fastpath is off",
		"batch 8\nfastpath off":                          "workers and batch have no effect: fastpath is off",
		"maxmem 2MiB\nsuccess 10000":                     "success 10000: half of maxmem 2097152 holds about 5242 entries of 200 bytes, so the memory limits it first",
		"maxmem 2MiB\ndenial 10000":                      "denial 10000: half of maxmem 2097152 holds about 5242 entries of 200 bytes, so the memory limits it first",
		"denial 2000 10 20":                              "denial: the floor of 20s is above the cap of 10s, which applies",
		"nxcut\ndisable denial":                          "nxcut has no effect: denials are disabled",
		"stale\ndisable denial\ndisable success":         "serving stale answers has no effect: both sides are disabled",
		"serve_stale\ndisable denial\ndisable success .": "serving stale answers has no effect: both sides are disabled",
	} {
		cfg, err := parse("penstock {\n" + lines + "\n}")
		if got := strings.Join(cfg.remarks(), "; "); got != want || err != nil {
			t.Errorf("%q: %q, want %q; %v", lines, got, want, err)
		}
	}
}

// Every option of the grammar in the manual page is known, and the other way round.
func TestManualPageHasEveryOption(t *testing.T) {
	b, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, grammar, _ := strings.Cut(string(b), "penstock [TTL] [ZONES...] {\n")
	grammar, _, _ = strings.Cut(grammar, "}\n")
	var documented []string
	for line := range strings.Lines(grammar) {
		name := strings.Fields(line)[0]
		documented = append(documented, name)
		if !strings.Contains(string(b), "\n* `"+name+"` ") && !strings.Contains(string(b), "\n* `"+name+" ") && !strings.Contains(string(b), "\n* `success` and `"+name+"` ") {
			t.Errorf("%s is in the grammar only", name)
		}
	}
	known := strings.Split(options, ", ")
	slices.Sort(known)
	slices.Sort(documented)
	if !slices.Equal(known, documented) {
		t.Errorf("the grammar in README.md has %v, the parser %v", documented, known)
	}
}
