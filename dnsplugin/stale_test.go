package dnsplugin

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coredns/coredns/plugin"
	"github.com/miekg/dns"
)

// The settings that RFC 8767 recommends.
var rfc8767 = Stale{UpTo: 24 * time.Hour, Verify: true, VerifyTimeout: 1800 * time.Millisecond, ResponseTTL: 30 * time.Second, Recheck: 30 * time.Second}

// RFC 8767, section 5: a client waits for the source, but not longer than 1.8 s.
func TestStaleAnswerComesAfterTheRefreshFailedOrTheClientTimer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := says(nil, "example.org. 60 IN A 192.0.2.1")
		c := cacheOf(t, Config{Stale: rfc8767}, s)
		ask(t, c, question("example.org.", dns.TypeA))
		time.Sleep(2 * time.Minute)

		s.dies()
		start := time.Now()
		m := ask(t, c, question("example.org.", dns.TypeA))
		if len(m.Answer) != 1 || ttls(m)[0] != 30 || time.Since(start) != 0 || s.count() != 2 {
			t.Errorf("after a failure: %v after %v, asked %d times", m, time.Since(start), s.count())
		}
		// Recheck: no further attempt for 30 s.
		time.Sleep(29 * time.Second)
		if ask(t, c, question("example.org.", dns.TypeA)); s.count() != 2 {
			t.Error("asked again before the recheck time")
		}
		time.Sleep(2 * time.Second)

		fresh := says(nil, "example.org. 60 IN A 192.0.2.99")
		s.answer = func(ctx context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
			time.Sleep(5 * time.Second)
			return fresh.answer(ctx, w, r)
		}
		start = time.Now()
		m = ask(t, c, question("example.org.", dns.TypeA))
		if m.Answer[0].(*dns.A).A.String() != "192.0.2.1" || time.Since(start) != 1800*time.Millisecond {
			t.Errorf("slow source: %v after %v", m, time.Since(start))
		}
		time.Sleep(4 * time.Second) // the refresh has finished in this time
		if m = ask(t, c, question("example.org.", dns.TypeA)); m.Answer[0].(*dns.A).A.String() != "192.0.2.99" || s.count() != 3 {
			t.Errorf("the late answer was lost: %v", m)
		}
	})
}

func TestVerifyWaitsForAQuickSource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := says(nil, "example.org. 60 IN A 192.0.2.1")
		c := cacheOf(t, Config{Stale: rfc8767}, s)
		ask(t, c, question("example.org.", dns.TypeA))
		time.Sleep(2 * time.Minute)
		s.say(nil, "example.org. 60 IN A 192.0.2.2")
		if m := ask(t, c, question("example.org.", dns.TypeA)); m.Answer[0].(*dns.A).A.String() != "192.0.2.2" || ttls(m)[0] != 60 {
			t.Errorf("%v", m)
		}
	})
}

// RFC 8767, section 4: NXDOMAIN is an answer; SERVFAIL and REFUSED are not.
func TestNXDOMAINReplacesAStaleAnswerAndFailuresDoNot(t *testing.T) {
	for _, st := range []Stale{{UpTo: time.Hour}, {UpTo: time.Hour, Verify: true}, {UpTo: time.Hour, Verify: true, VerifyTimeout: time.Second}} {
		synctest.Test(t, func(t *testing.T) {
			s := says(nil, "example.org. 60 IN A 192.0.2.1")
			c := cacheOf(t, Config{Stale: st}, s)
			ask(t, c, question("example.org.", dns.TypeA))
			time.Sleep(2 * time.Minute)
			for _, rcode := range []int{dns.RcodeServerFailure, dns.RcodeRefused, dns.RcodeNotImplemented} {
				s.say(func(m *dns.Msg) { m.Rcode = rcode })
				for range 2 {
					if m := ask(t, c, question("example.org.", dns.TypeA)); len(m.Answer) != 1 {
						t.Errorf("%+v: %s took the place of an answer", st, dns.RcodeToString[rcode])
					}
					synctest.Wait()
				}
			}
			s.say(nx, soa300)
			ask(t, c, question("example.org.", dns.TypeA)) // immediate: still the stale one
			synctest.Wait()
			n := s.count()
			if m := ask(t, c, question("example.org.", dns.TypeA)); m.Rcode != dns.RcodeNameError || s.count() != n {
				t.Errorf("%+v: %v after NXDOMAIN", st, m)
			}
			// And back, once the denial is over.
			time.Sleep(6 * time.Minute)
			s.say(nil, "example.org. 60 IN A 192.0.2.3")
			ask(t, c, question("example.org.", dns.TypeA))
			synctest.Wait()
			n = s.count()
			if m := ask(t, c, question("example.org.", dns.TypeA)); len(m.Answer) != 1 || m.Answer[0].(*dns.A).A.String() != "192.0.2.3" || s.count() != n {
				t.Errorf("%+v: %v, asked %d more times", st, m, s.count()-n)
			}
		})
	}
}

// A source that is dead for an hour: all warm names are answered all the time,
// with at most one attempt for each name in 30 s.
func TestDeadUpstreamForAnHour(t *testing.T) {
	for _, st := range []Stale{rfc8767, {UpTo: 24 * time.Hour, ResponseTTL: 30 * time.Second, Recheck: 30 * time.Second}} {
		synctest.Test(t, func(t *testing.T) {
			const names = 20
			s := says(nil)
			c := cacheOf(t, Config{Stale: st}, s)
			for i := range names {
				name := fmt.Sprintf("n%d.example.org.", i)
				s.say(nil, name+" 60 IN A 192.0.2.1")
				ask(t, c, question(name, dns.TypeA))
			}
			s.dies()
			asked := s.count()
			for at := 0; at < 3600; at += 5 {
				time.Sleep(5 * time.Second)
				for i := range names {
					if m := ask(t, c, question(fmt.Sprintf("n%d.example.org.", i), dns.TypeA)); m == nil || len(m.Answer) != 1 {
						t.Fatalf("%+v: no answer after %d s", st, at)
					}
				}
				synctest.Wait()
			}
			if n := s.count() - asked; n > names*3600/30 {
				t.Errorf("%d attempts, at most %d allowed", n, names*3600/30)
			}
		})
	}
}

func TestStaleEndsAfterItsDuration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := says(nil, "example.org. 60 IN A 192.0.2.1")
		c := cacheOf(t, Config{Stale: Stale{UpTo: 10 * time.Minute}}, s)
		ask(t, c, question("example.org.", dns.TypeA))
		s.dies()
		time.Sleep(11*time.Minute - time.Millisecond)
		if m := ask(t, c, question("example.org.", dns.TypeA)); m == nil || ttls(m)[0] != 0 {
			t.Errorf("%v just before the end", m)
		}
		synctest.Wait()
		time.Sleep(time.Millisecond)
		w := &clientWriter{}
		if rcode, err := c.ServeDNS(t.Context(), w, question("example.org.", dns.TypeA)); err == nil || rcode != dns.RcodeServerFailure || w.last() != nil {
			t.Errorf("%d %v %v after the end", rcode, err, w.last())
		}
	})
}

func TestDisabledDenialStillEndsAStaleSuccess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := says(nil, "example.org. 60 IN A 192.0.2.1")
		c := cacheOf(t, Config{Stale: Stale{UpTo: time.Hour}, Denial: Side{Disable: []string{"."}}}, s)
		ask(t, c, question("example.org.", dns.TypeA))
		time.Sleep(2 * time.Minute)
		s.say(nx, soa300)
		ask(t, c, question("example.org.", dns.TypeA))
		synctest.Wait()
		if m := ask(t, c, question("example.org.", dns.TypeA)); m.Rcode != dns.RcodeNameError {
			t.Errorf("%v", m)
		}
		if c.sides.Denial.Store.Len() != 0 {
			t.Error("a denial was kept")
		}
	})
}

// With the denial side off, a failed prefetch leaves the entry as it is.
func TestFailedPrefetchKeepsTheEntry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := says(nil, "example.org. 100 IN A 192.0.2.1")
		c := cacheOf(t, Config{Prefetch: Prefetch{Amount: 1, Percentage: 90}, Denial: Side{Disable: []string{"."}}}, s)
		ask(t, c, question("example.org.", dns.TypeA))
		time.Sleep(50 * time.Second)
		for _, fail := range []func(){s.dies, func() { s.say(func(m *dns.Msg) { m.Rcode = dns.RcodeServerFailure }) }, func() { s.say(func(m *dns.Msg) { m.Rcode = dns.RcodeRefused }) }} {
			fail()
			n := s.count()
			for range 2 {
				if m := ask(t, c, question("example.org.", dns.TypeA)); m == nil || len(m.Answer) != 1 {
					t.Errorf("%v", m)
				}
				synctest.Wait()
			}
			if s.count() == n {
				t.Error("nothing was tried")
			}
		}
	})
}

func TestPreferPositiveKeepsTheLastGoodAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := says(nil, "example.org. 60 IN A 192.0.2.1")
		c := cacheOf(t, Config{Stale: Stale{UpTo: time.Hour, PreferPositive: true}}, s)
		ask(t, c, question("example.org.", dns.TypeA))
		time.Sleep(2 * time.Minute)
		for _, bad := range []func(){func() { s.say(nx, soa300) }, func() { s.say(nil) }, func() { s.say(nil, "example.org. 60 IN NS ns.other.") }} {
			bad()
			for range 2 {
				if m := ask(t, c, question("example.org.", dns.TypeA)); len(m.Answer) != 1 {
					t.Errorf("%v", m)
				}
				synctest.Wait()
			}
		}
		s.say(nil, "example.org. 60 IN A 192.0.2.2")
		ask(t, c, question("example.org.", dns.TypeA))
		synctest.Wait()
		if m := ask(t, c, question("example.org.", dns.TypeA)); len(m.Answer) != 1 || m.Answer[0].(*dns.A).A.String() != "192.0.2.2" {
			t.Errorf("%v", m)
		}
	})
}

// Many queries for one popular entry near its end start one refresh.
func TestPrefetchRunsOncePerEntry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		s := says(nil, "example.org. 100 IN A 192.0.2.1")
		c := cacheOf(t, Config{Prefetch: Prefetch{Amount: 3}}, s)
		ask(t, c, question("example.org.", dns.TypeA))
		answer := s.answer
		s.answer = func(ctx context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
			<-release
			return answer(ctx, w, r)
		}
		time.Sleep(50 * time.Second)
		for range 5 {
			ask(t, c, question("example.org.", dns.TypeA)) // popular, but not near its end
		}
		if s.count() != 1 {
			t.Fatal("refreshed too early")
		}
		time.Sleep(41 * time.Second)
		for range 100 {
			if m := ask(t, c, question("example.org.", dns.TypeA)); ttls(m)[0] != 9 {
				t.Fatal(m)
			}
		}
		close(release)
		synctest.Wait()
		if m := ask(t, c, question("example.org.", dns.TypeA)); ttls(m)[0] != 100 || s.count() != 2 {
			t.Errorf("%v, asked %d times", m, s.count())
		}
	})
}

// Refreshes are bounded in number, end with Close, and none starts after it. The
// names of a source that hangs get half of the places, and others are refreshed.
func TestRefreshesAreBoundedAndEndWithClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := says(nil)
		c, err := New(Config{Stale: Stale{UpTo: time.Hour}})
		if err != nil {
			t.Fatal(err)
		}
		c.Next = s
		const names = maxBackground + 100
		name := func(i int) string { return fmt.Sprintf("n%d.example.org.", i) }
		for i := range names {
			s.say(nil, name(i)+" 60 IN A 192.0.2.1")
			ask(t, c, question(name(i), dns.TypeA))
		}
		s.say(nil, "www.example.net. 60 IN A 192.0.2.1")
		ask(t, c, question("www.example.net.", dns.TypeA))
		time.Sleep(2 * time.Minute)
		s.answer = func(ctx context.Context, _ dns.ResponseWriter, _ *dns.Msg) (int, error) {
			<-ctx.Done() // a source that hangs, but heeds its context
			return dns.RcodeServerFailure, ctx.Err()
		}
		for i := range names {
			if m := ask(t, c, question(name(i), dns.TypeA)); len(m.Answer) != 1 {
				t.Fatal(m)
			}
		}
		synctest.Wait()
		if n := s.count() - names - 1; n != maxBackground/2 {
			t.Errorf("%d refreshes at once", n)
		}
		ask(t, c, question("www.example.net.", dns.TypeA))
		synctest.Wait()
		if n := s.count() - names - 1; n != maxBackground/2+1 {
			t.Errorf("%d refreshes at once with one of another name", n)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		n := s.count()
		if m := ask(t, c, question(name(0), dns.TypeA)); len(m.Answer) != 1 || s.count() != n {
			t.Error("a closed cache must still answer, and start nothing")
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
}

func TestCloseDoesNotWaitForAHangingSource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := says(nil, "example.org. 60 IN A 192.0.2.1")
		c, err := New(Config{Stale: Stale{UpTo: time.Hour}})
		if err != nil {
			t.Fatal(err)
		}
		c.Next = s
		ask(t, c, question("example.org.", dns.TypeA))
		time.Sleep(2 * time.Minute)
		release := make(chan struct{})
		s.answer = func(context.Context, dns.ResponseWriter, *dns.Msg) (int, error) { <-release; return 0, nil }
		ask(t, c, question("example.org.", dns.TypeA))
		synctest.Wait()
		start := time.Now()
		if err := c.Close(); err == nil || time.Since(start) != closeGrace {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		close(release)
		synctest.Wait()
	})
}

var _ plugin.Handler = (*source)(nil)

// An entry that is popular already is written to once a second at most, however
// often it is hit: cores that answer from it share its line.
func TestHitsOfPopularEntriesAreSampled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := says(nil, "example.org. 1000 IN A 192.0.2.1")
		c := cacheOf(t, Config{Prefetch: Prefetch{Amount: 5}}, s)
		ask(t, c, question("example.org.", dns.TypeA))
		id, _ := c.identify(question("example.org.", dns.TypeA), nil)
		e, _ := c.sides.Lookup(&id, c.sides.Instant(c.now()))
		writes, last := 0, e.LastHit.Load()
		for range 1000 {
			ask(t, c, question("example.org.", dns.TypeA))
			if now := e.LastHit.Load(); now != last {
				writes, last = writes+1, now
			}
			time.Sleep(10 * time.Millisecond)
		}
		if writes > 5+10 || e.Hits.Load() != 5 {
			t.Errorf("%d writes and %d hits in 1,000 hits of 10 s, want at most 15 and 5", writes, e.Hits.Load())
		}
		// A gap restarts the count. Samples are close enough not to show a false gap.
		time.Sleep(57 * time.Second)
		ask(t, c, question("example.org.", dns.TypeA))
		if e.Hits.Load() != 5 {
			t.Error("a gap of less than a minute counts as one")
		}
		time.Sleep(62 * time.Second)
		ask(t, c, question("example.org.", dns.TypeA))
		if e.Hits.Load() != 1 {
			t.Error("a gap of more than a minute does not count as one")
		}
	})
}
