package dnsplugin

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
)

// Cases of prefer_positive that the differential test has found.

// A refresh that brings no answer is followed by a pause for its entry, but not
// for the response that it brought, which expires by itself.
func TestPauseAfterAFailureIsNotForALaterAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := rfc8767
		st.PreferPositive = true
		s := says(nx, "example. 5 IN SOA ns.example. h.example. 1 2 3 4 5")
		c := cacheOf(t, Config{Stale: st}, s)
		for range 3 { // each time the entry has just ended, and nothing better is there
			ask(t, c, question("a.example.", dns.TypeA))
			time.Sleep(5*time.Second + time.Millisecond)
		}
		if s.count() != 3 {
			t.Errorf("asked %d times, want 3", s.count())
		}
	})
}

// The last good answer keeps its popularity when a response without an answer
// replaces it.
func TestLastGoodAnswerKeepsItsPopularity(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := says(nil, "example.org. 60 IN A 192.0.2.1")
		c := cacheOf(t, Config{Prefetch: Prefetch{Amount: 3, Percentage: 50}, Stale: Stale{UpTo: time.Hour, PreferPositive: true}}, s)
		for range 3 {
			ask(t, c, question("example.org.", dns.TypeA))
		}
		s.say(nil) // no records at all
		time.Sleep(40 * time.Second)
		for i := range 3 {
			if m := ask(t, c, question("example.org.", dns.TypeA)); len(m.Answer) != 1 {
				t.Fatalf("%v", m)
			}
			synctest.Wait()
			if s.count() != 2+i {
				t.Errorf("after %d hits: asked %d times", i+1, s.count())
			}
		}
	})
}

// The last good answer may be served for longer than the one that hid it.
func TestLastGoodAnswerOutlivesTheDenial(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := says(nil, "example.org. 100 IN A 192.0.2.1")
		c := cacheOf(t, Config{
			Prefetch: Prefetch{Amount: 1, Percentage: 90}, Stale: Stale{UpTo: 30 * time.Second, PreferPositive: true},
		}, s)
		ask(t, c, question("example.org.", dns.TypeA))
		s.say(nil)
		time.Sleep(12 * time.Second)
		ask(t, c, question("example.org.", dns.TypeA)) // brings the empty answer, which is kept for 5 s + 30 s
		synctest.Wait()
		time.Sleep(36 * time.Second)
		if m := ask(t, c, question("example.org.", dns.TypeA)); len(m.Answer) != 1 || ttls(m)[0] != 52 {
			t.Errorf("%v", m)
		}
		synctest.Wait()
		// A new answer ends the old one for good, however short its own life is.
		s.say(nil, "example.org. 1 IN A 192.0.2.2")
		ask(t, c, question("example.org.", dns.TypeA))
		synctest.Wait()
		s.say(nx, soa300)
		time.Sleep(36 * time.Second)
		if m := ask(t, c, question("example.org.", dns.TypeA)); m.Rcode != dns.RcodeNameError {
			t.Errorf("%v", m)
		}
	})
}
