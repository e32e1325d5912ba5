package dnsplugin

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
)

// held makes s wait for release before each answer.
func held(s *source) (release chan struct{}) {
	release = make(chan struct{})
	answer := s.answer
	s.answer = func(ctx context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
		<-release
		return answer(ctx, w, r)
	}
	return release
}

// askAll sends n questions at once and returns the answers when all are there.
func askAll(c *Cache, n int, r *dns.Msg) func() []*clientWriter {
	writers := make([]*clientWriter, n)
	var wg sync.WaitGroup
	for i := range writers {
		writers[i] = &clientWriter{}
		wg.Go(func() {
			q := r.Copy()
			q.Id = uint16(i)
			_, _ = c.ServeDNS(context.Background(), writers[i], q)
		})
	}
	return func() []*clientWriter { wg.Wait(); return writers }
}

func TestTenThousandSimultaneousMissesAskOnce(t *testing.T) {
	for name, s := range map[string]*source{
		"success":  says(nil, "example.org. 60 IN A 192.0.2.1"),
		"NXDOMAIN": says(nx, soa300),
		"SERVFAIL": says(func(m *dns.Msg) { m.Rcode = dns.RcodeServerFailure }),
	} {
		synctest.Test(t, func(t *testing.T) {
			release := held(s)
			c := cacheOf(t, Config{}, s)
			answers := askAll(c, 10000, question("example.org.", dns.TypeA))
			synctest.Wait()
			close(release)
			want := ""
			for i, w := range answers() {
				m := w.last()
				if m == nil || len(w.msgs) != 1 || m.Id != uint16(i) {
					t.Fatalf("%s: answer %d: %v", name, i, w.msgs)
				}
				m.Id = 0
				if want == "" {
					want = m.String()
				}
				if m.String() != want {
					t.Fatalf("%s: answers differ: %v, %s", name, m, want)
				}
			}
			if s.count() != 1 {
				t.Errorf("%s: asked %d times", name, s.count())
			}
			if n := value(t, c.meters.Of("").Coalesced); n != 9999 {
				t.Errorf("%s: %v coalesced", name, n)
			}
			if len(c.flights.byKey) != 0 || c.flights.waiting != 0 {
				t.Errorf("%s: left behind %+v", name, c.flights)
			}
		})
	}
}

func TestFailureWithoutResponseIsSharedToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &source{}
		s.dies()
		release := held(s)
		c := cacheOf(t, Config{}, s)
		answers := askAll(c, 100, question("example.org.", dns.TypeA))
		synctest.Wait()
		close(release)
		got := 0
		for _, w := range answers() {
			if m := w.last(); m != nil && m.Rcode == dns.RcodeServerFailure {
				got++
			}
		}
		// The leader returns the error, from which the server makes SERVFAIL.
		if s.count() != 1 || got != 99 {
			t.Errorf("asked %d times, %d answers", s.count(), got)
		}
	})
}

func TestUncacheableAnswersAreNotShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := says(func(m *dns.Msg) { m.Rcode = dns.RcodeRefused })
		release := held(s)
		c := cacheOf(t, Config{}, s)
		answers := askAll(c, 50, question("example.org.", dns.TypeA))
		synctest.Wait()
		close(release)
		for _, w := range answers() {
			if m := w.last(); m == nil || m.Rcode != dns.RcodeRefused {
				t.Fatal(m)
			}
		}
		if s.count() != 50 {
			t.Errorf("asked %d times", s.count())
		}
	})
}

func TestWaitersAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := says(nil, "example.org. 60 IN A 192.0.2.1")
		release := held(s)
		c := cacheOf(t, Config{Coalesce: 10}, s)
		answers := askAll(c, 31, question("example.org.", dns.TypeA))
		synctest.Wait()
		if s.count() != 21 { // the leader, and 20 for whom there was no place
			t.Errorf("asked %d times", s.count())
		}
		close(release)
		for _, w := range answers() {
			if w.last() == nil {
				t.Fatal("no answer")
			}
		}
	})
}

func TestCoalesceOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := says(nil, "example.org. 60 IN A 192.0.2.1")
		release := held(s)
		c := cacheOf(t, Config{Coalesce: -1}, s)
		answers := askAll(c, 20, question("example.org.", dns.TypeA))
		synctest.Wait()
		close(release)
		answers()
		if s.count() != 20 {
			t.Errorf("asked %d times", s.count())
		}
	})
}

// The loop plugin must see its own question come back.
func TestHINFOIsNotCoalesced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := says(nil, "example.org. 60 IN HINFO a b")
		release := held(s)
		c := cacheOf(t, Config{}, s)
		answers := askAll(c, 3, question("example.org.", dns.TypeHINFO))
		synctest.Wait()
		if s.count() != 3 {
			t.Errorf("asked %d times", s.count())
		}
		close(release)
		answers()
	})
}

// With the Corefile of kubeadm, no query waits in a zone whose answers are not kept.
func TestDisabledZonesAreNotCoalesced(t *testing.T) {
	for _, cfg := range []Config{{Success: Side{Disable: []string{"cluster.local."}}}, {Denial: Side{Disable: []string{"cluster.local."}}}} {
		synctest.Test(t, func(t *testing.T) {
			s := says(nil, "a.cluster.local. 60 IN A 192.0.2.1")
			release := held(s)
			c := cacheOf(t, cfg, s)
			answers := askAll(c, 7, question("a.cluster.local.", dns.TypeA))
			synctest.Wait()
			if s.count() != 7 {
				t.Errorf("asked %d times", s.count())
			}
			close(release)
			answers()
		})
	}
}

// A plugin that resolves a CNAME asks the server again while its own question
// is in flight; with a CNAME loop, for the very name that is waited for.
func TestQuestionsOfALeaderDoNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &source{}
		c := cacheOf(t, Config{}, s)
		depth := 0
		s.answer = func(ctx context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
			if depth++; depth < 4 {
				other := map[string]string{"a.": "b.", "b.": "a."}[r.Question[0].Name]
				if _, err := c.ServeDNS(ctx, &clientWriter{}, question(other, dns.TypeA)); err != nil {
					return dns.RcodeServerFailure, err
				}
			}
			return says(nil, r.Question[0].Name+" 60 IN A 192.0.2.1").answer(ctx, w, r)
		}
		start := time.Now()
		if m := ask(t, c, question("a.", dns.TypeA)); m == nil || time.Since(start) != 0 {
			t.Errorf("%v after %v", m, time.Since(start))
		}
	})
}

func TestWaiterGivesUpWithItsContextAndAfterTheClientHasGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := says(nil, "example.org. 60 IN A 192.0.2.1")
		release := held(s)
		c := cacheOf(t, Config{}, s)
		leader := askAll(c, 1, question("example.org.", dns.TypeA))
		synctest.Wait()
		waiter := askAll(c, 1, question("example.org.", dns.TypeA))
		synctest.Wait()
		time.Sleep(flightWait)
		synctest.Wait()
		if s.count() != 2 {
			t.Error("still waiting")
		}
		close(release)
		leader()
		waiter()

		s.answer = func(ctx context.Context, _ dns.ResponseWriter, _ *dns.Msg) (int, error) {
			return dns.RcodeServerFailure, ctx.Err()
		}
		hold := held(s)
		leader = askAll(c, 1, question("b.example.org.", dns.TypeA))
		synctest.Wait()
		ctx, cancel := context.WithCancel(context.Background())
		var wg sync.WaitGroup
		start := time.Now()
		wg.Go(func() { _, _ = c.ServeDNS(ctx, &clientWriter{}, question("b.example.org.", dns.TypeA)) })
		synctest.Wait()
		cancel()
		synctest.Wait()
		if c.flights.waiting != 0 || time.Since(start) != 0 {
			t.Error("a cancelled query still waits")
		}
		close(hold)
		wg.Wait()
		leader()
	})
}

func TestPanickingLeaderReleasesItsWaiters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := says(nil, "example.org. 60 IN A 192.0.2.1")
		good := s.answer
		hold := make(chan struct{})
		first := true
		s.answer = func(ctx context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
			if first {
				first = false
				<-hold
				panic("a bug in a plugin")
			}
			return good(ctx, w, r)
		}
		c := cacheOf(t, Config{}, s)
		var wg sync.WaitGroup
		wg.Go(func() {
			defer func() { _ = recover() }() // as CoreDNS's server does
			_, _ = c.ServeDNS(context.Background(), &clientWriter{}, question("example.org.", dns.TypeA))
		})
		synctest.Wait()
		waiters := askAll(c, 5, question("example.org.", dns.TypeA))
		synctest.Wait()
		close(hold)
		wg.Wait()
		start := time.Now()
		for _, w := range waiters() {
			if w.last() == nil {
				t.Error("no answer")
			}
		}
		if time.Since(start) != 0 {
			t.Error("waited for a leader that is gone")
		}
	})
}

// A client that goes away does not make a failure of the source out of it.
func TestCancelledQueryIsNoServFail(t *testing.T) {
	s := &source{}
	s.answer = func(ctx context.Context, _ dns.ResponseWriter, _ *dns.Msg) (int, error) {
		return dns.RcodeServerFailure, errors.New("cancelled")
	}
	c := cacheOf(t, Config{}, s)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, _ = c.ServeDNS(ctx, &clientWriter{}, question("example.org.", dns.TypeA))
	if c.sides.Denial.Store.Len() != 0 {
		t.Error("stored a SERVFAIL")
	}
}

// With queries, refreshes, evictions and expiry at once, no answer has another
// name, type or ID, or a TTL above the remaining one. Run it with -race.
func TestNoAnswerIsEverWrong(t *testing.T) {
	s := &source{}
	s.answer = func(ctx context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
		q := r.Question[0]
		switch name := strings.ToLower(q.Name); {
		case strings.HasPrefix(name, "nx"):
			return says(nx, soa300).answer(ctx, w, r)
		case q.Qtype == dns.TypeA:
			return says(nil, name+" 2 IN A 192.0.2.1", name+` 2 IN TXT "`+name+`"`).answer(ctx, w, r)
		default:
			return says(nil, name+` 7 IN TXT "`+name+`"`).answer(ctx, w, r)
		}
	}
	c := cacheOf(t, Config{
		MaxMem: MinMaxMemory, Success: Side{Capacity: MinCapacity, MinTTL: -1}, Prefetch: Prefetch{Amount: 1, Percentage: 90},
		Stale: Stale{UpTo: time.Second},
	}, s)
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range 3000 {
				n := (i*7 + g*13) % 1500
				name := []string{"nx", "Ok", "oK"}[n%3] + strings.Repeat("x", n%40) + "-" + string(rune('a'+n%26)) + string(rune('a'+n/26%26)) + "."
				qtype := []uint16{dns.TypeA, dns.TypeTXT}[n%2]
				r := question(name, qtype)
				w := &clientWriter{}
				if _, err := c.ServeDNS(context.Background(), w, r); err != nil {
					t.Error(err)
					return
				}
				m := w.last()
				if m.Id != r.Id || m.Question[0] != r.Question[0] || len(w.msgs) != 1 {
					t.Errorf("%v for %v", m, r)
				}
				if isNX := strings.HasPrefix(name, "nx"); isNX != (m.Rcode == dns.RcodeNameError) {
					t.Errorf("%v for %v", m, r)
				} else if !isNX && (m.Answer[len(m.Answer)-1].(*dns.TXT).Txt[0] != strings.ToLower(name) || ttls(m)[0] > 7 || (qtype == dns.TypeA && ttls(m)[0] > 2)) {
					t.Errorf("%v for %v", m, r)
				}
			}
		})
	}
	wg.Wait()
}
