package dnsplugin

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
)

const exampleSOA = "example.org. 300 IN SOA ns.example.org. host.example.org. 1 2 3 4 300"

var (
	trusted   = NXCut{On: true, Zones: []string{"example.org."}}
	validated = NXCut{On: true}
)

func secure(m *dns.Msg) { m.AuthenticatedData = true }

func secureNX(m *dns.Msg) { nx(m); secure(m) }

// Which denials make a cut, and which names it hides. The source answers the first
// question with denial. asked says whether the second one must reach the source.
func TestNXDOMAINCut(t *testing.T) {
	aQuestion := func(name string, qtype uint16, edit ...func(*dns.Msg)) *dns.Msg {
		return question(name, qtype, edit...)
	}
	cd := func(m *dns.Msg) { m.CheckingDisabled = true }
	do := func(m *dns.Msg) { m.SetEdns0(1232, true) }
	for name, tt := range map[string]struct {
		cut     NXCut
		denial  *source
		q, then *dns.Msg
		query   bool
	}{
		"off":                              {NXCut{}, says(secureNX, exampleSOA), aQuestion("a.example.org.", 1), aQuestion("b.a.example.org.", 1), true},
		"below":                            {trusted, says(nx, exampleSOA), aQuestion("a.example.org.", 1), aQuestion("x.y.B.A.example.org.", 28), false},
		"another type":                     {trusted, says(nx, exampleSOA), aQuestion("A.example.org.", 1), aQuestion("a.example.org.", 28), false},
		"beside":                           {trusted, says(nx, exampleSOA), aQuestion("a.example.org.", 1), aQuestion("b.example.org.", 1), true},
		"above":                            {trusted, says(nx, exampleSOA), aQuestion("b.a.example.org.", 1), aQuestion("a.example.org.", 1), true},
		"a label that only ends alike":     {trusted, says(nx, exampleSOA), aQuestion("a.example.org.", 1), aQuestion("b.xa.example.org.", 1), true},
		"NODATA (empty non-terminal)":      {trusted, says(nil, exampleSOA), aQuestion("a.example.org.", 1), aQuestion("b.a.example.org.", 1), true},
		"a wildcard's data":                {trusted, says(nil, "a.example.org. 60 IN A 192.0.2.1"), aQuestion("a.example.org.", 1), aQuestion("b.a.example.org.", 1), true},
		"the end of a CNAME chain":         {trusted, says(nx, "a.example.org. 60 IN CNAME b.example.org.", exampleSOA), aQuestion("a.example.org.", 1), aQuestion("b.a.example.org.", 1), true},
		"no SOA":                           {trusted, says(nx), aQuestion("a.example.org.", 1), aQuestion("b.a.example.org.", 1), true},
		"denied by a zone beside":          {trusted, says(nx, "b.example.org. 300 IN SOA ns. h. 1 2 3 4 300"), aQuestion("a.example.org.", 1), aQuestion("b.a.example.org.", 1), true},
		"denied by the zone's parent":      {trusted, says(secureNX, "org. 300 IN SOA ns. h. 1 2 3 4 300"), aQuestion("a.example.org.", 1), aQuestion("b.a.example.org.", 1), true},
		"the zone itself is denied":        {trusted, says(nx, "org. 300 IN SOA ns. h. 1 2 3 4 300"), aQuestion("example.org.", 1), aQuestion("a.example.org.", 1), true},
		"denied by itself":                 {trusted, says(nx, exampleSOA), aQuestion("example.org.", 1), aQuestion("a.example.org.", 1), true},
		"another zone, validated":          {trusted, says(secureNX, "example.com. 300 IN SOA ns. h. 1 2 3 4 300"), aQuestion("a.example.com.", 1), aQuestion("b.a.example.com.", 1), true},
		"SERVFAIL":                         {trusted, says(func(m *dns.Msg) { m.Rcode = dns.RcodeServerFailure }, exampleSOA), aQuestion("a.example.org.", 1), aQuestion("b.a.example.org.", 1), true},
		"fetched with CD":                  {trusted, says(nx, exampleSOA), aQuestion("a.example.org.", 1, cd), aQuestion("b.a.example.org.", 1), true},
		"asked with CD":                    {trusted, says(nx, exampleSOA), aQuestion("a.example.org.", 1), aQuestion("b.a.example.org.", 1, cd), true},
		"without the proof, asked with DO": {trusted, says(nx, exampleSOA), aQuestion("a.example.org.", 1), aQuestion("b.a.example.org.", 1, do), true},
		"with DO":                          {trusted, says(nx, exampleSOA), aQuestion("a.example.org.", 1, do), aQuestion("b.a.example.org.", 1, do), false},
		"validated":                        {validated, says(secureNX, exampleSOA), aQuestion("a.example.org.", 1), aQuestion("b.a.example.org.", 1), false},
		"not validated":                    {validated, says(nx, exampleSOA), aQuestion("a.example.org.", 1), aQuestion("b.a.example.org.", 1), true},
		"local. of the root, validated":    {validated, says(secureNX, ". 300 IN SOA ns. h. 1 2 3 4 300"), aQuestion("local.", 1), aQuestion("a.cluster.local.", 1), true},
	} {
		t.Run(name, func(t *testing.T) {
			c := cacheOf(t, Config{NXCut: tt.cut}, tt.denial)
			ask(t, c, tt.q)
			tt.denial.say(nil, tt.then.Question[0].Name+" 60 IN "+dns.TypeToString[tt.then.Question[0].Qtype]+map[uint16]string{1: " 192.0.2.7", 28: " 2001:db8::7"}[tt.then.Question[0].Qtype])
			m := ask(t, c, tt.then)
			if asked := tt.denial.count() == 2; asked != tt.query || m.Id != tt.then.Id || m.Question[0] != tt.then.Question[0] {
				t.Errorf("asked %v, want %v: %v", asked, tt.query, m)
			}
			if (m.Rcode == dns.RcodeNameError) == tt.query {
				t.Errorf("%v", m)
			}
			if !tt.query && (len(m.Ns) != 1 || m.Ns[0].Header().Name != "example.org." || value(t, c.meters.Of("").Cuts) != 1) {
				t.Errorf("%v", m)
			}
		})
	}
}

// A cut ages, and ends with its TTL even if stale answers are served. An entry
// below it goes first.
func TestNXDOMAINCutEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := says(nil, "b.a.example.org. 600 IN A 192.0.2.1")
		c := cacheOf(t, Config{NXCut: trusted, Stale: Stale{UpTo: time.Hour}}, s)
		ask(t, c, question("b.a.example.org.", dns.TypeA))
		s.say(nx, exampleSOA)
		ask(t, c, question("a.example.org.", dns.TypeA))
		if m := ask(t, c, question("b.a.example.org.", dns.TypeA)); len(m.Answer) != 1 {
			t.Errorf("what is in the cache is hidden: %v", m)
		}
		time.Sleep(100 * time.Second)
		if m := ask(t, c, question("c.a.example.org.", dns.TypeA)); m.Rcode != dns.RcodeNameError || ttls(m)[0] != 200 {
			t.Errorf("%v", m)
		}
		asked := s.count()
		time.Sleep(200 * time.Second)
		ask(t, c, question("c.a.example.org.", dns.TypeA))
		if s.count() != asked+1 {
			t.Error("served beyond its end")
		}
	})
}

// Any existing name below lifts the cut: a refresh of something that
// was in the cache before is newer than the denial above.
func TestNXDOMAINCutIsLiftedByAnExistingName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, fill := range map[string]*source{
			"data": says(nil, "b.a.example.org. 60 IN A 192.0.2.1"), "NODATA": says(nil, exampleSOA),
		} {
			c := cacheOf(t, Config{NXCut: trusted, Prefetch: Prefetch{Amount: 1, Percentage: 90}}, fill)
			answer := fill.answer
			ask(t, c, question("b.a.example.org.", dns.TypeA))
			for _, edit := range []func(*dns.Msg){nil, func(m *dns.Msg) { m.SetEdns0(1232, true) }} {
				fill.say(nx, exampleSOA)
				q := question("a.example.org.", dns.TypeA)
				if edit != nil {
					edit(q)
				}
				ask(t, c, q)
			}
			fill.answer = answer
			time.Sleep(50 * time.Second)
			ask(t, c, question("b.a.example.org.", dns.TypeA)) // prefetches
			synctest.Wait()
			asked := fill.count()
			ask(t, c, question("c.a.example.org.", dns.TypeA))
			q := question("c.a.example.org.", dns.TypeA)
			q.SetEdns0(1232, true)
			ask(t, c, q)
			if fill.count() != asked+2 {
				t.Errorf("%s: still cut", name)
			}
		}
	})
}

func TestNXDOMAINCutHeedsDisableAndFlush(t *testing.T) {
	s := says(nx, exampleSOA)
	c := cacheOf(t, Config{NXCut: trusted, Denial: Side{Disable: []string{"off.a.example.org."}}}, s)
	ask(t, c, question("a.example.org.", dns.TypeA))
	for range 2 {
		ask(t, c, question("x.off.a.example.org.", dns.TypeA))
	}
	if s.count() != 3 {
		t.Errorf("asked %d times, want 3: denials of a zone in disable are not from the cache", s.count())
	}
	do := func(method, target string) string {
		w := httptest.NewRecorder()
		c.controlled(w, httptest.NewRequest(method, target, nil))
		return w.Body.String()
	}
	if got := do(http.MethodGet, "/dump?name=a.example.org"); !strings.Contains(got, "for all types and names below (nxcut)") {
		t.Error(got)
	}
	// Flushing a name below takes the cut away that answers for it.
	if got := do(http.MethodPost, "/flush?name=b.a.example.org&type=A"); got != "flushed 1 entries\n" {
		t.Error(got)
	}
	s.say(nil, "b.a.example.org. 60 IN A 192.0.2.1")
	if m := ask(t, c, question("b.a.example.org.", dns.TypeA)); len(m.Answer) != 1 {
		t.Errorf("%v", m)
	}
}

// A cut is not written to the snapshot, and not read from one either.
func TestNXDOMAINCutIsNotKeptOverARestart(t *testing.T) {
	s := says(nx, exampleSOA)
	c := cacheOf(t, Config{NXCut: trusted}, s)
	ask(t, c, question("a.example.org.", dns.TypeA))
	var b strings.Builder
	if err := c.writeSnapshot(&b); err != nil {
		t.Fatal(err)
	}
	next := cacheOf(t, Config{}, s)
	if n, err := next.readSnapshot(strings.NewReader(b.String()), int64(b.Len())); n != 1 || err != nil {
		t.Errorf("%d entries, %v", n, err)
	}
}

// The names of an attack, or of a search path, under one denial: one question.
func TestNXDOMAINCutStopsRandomNames(t *testing.T) {
	s := says(nx, exampleSOA)
	c := cacheOf(t, Config{NXCut: trusted}, s)
	ask(t, c, question("gone.example.org.", dns.TypeA))
	for i := range 1000 {
		ask(t, c, question("x"+strings.Repeat("y", i%50)+".gone.example.org.", []uint16{1, 28}[i%2]))
	}
	if s.count() != 1 {
		t.Errorf("asked %d times", s.count())
	}
}
