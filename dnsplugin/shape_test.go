package dnsplugin

import (
	"bytes"
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
	"pgregory.net/rapid"

	"github.com/penstock/penstock/dnsplugin/internal/front"
	"github.com/penstock/penstock/dnsplugin/internal/sides"
	"github.com/penstock/penstock/dnsplugin/internal/wire"
)

// dropsEDNS is a source that answers no question with an OPT, until release.
func dropsEDNS() (src *source, release chan struct{}) {
	release = make(chan struct{})
	src = says(nil, "www.example.org. 60 IN A 192.0.2.1")
	answer := src.answer
	src.answer = func(ctx context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
		if r.IsEdns0() != nil {
			<-release
			return dns.RcodeServerFailure, context.DeadlineExceeded
		}
		return answer(ctx, w, r)
	}
	return src, release
}

// A source that drops questions with EDNS gets the one without it.
func TestQuestionsOfAnotherShapeAreNotJoined(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src, release := dropsEDNS()
		c := cacheOf(t, Config{}, src)
		first := askAll(c, 1, question("www.example.org.", dns.TypeA, func(r *dns.Msg) { r.SetEdns0(1232, false) }))
		synctest.Wait()
		if m := ask(t, c, question("www.example.org.", dns.TypeA)); m == nil || len(m.Answer) != 1 {
			t.Errorf("%v", m)
		}
		close(release)
		first()
	})
}

// One query that the source drops does not hold its name: after a second the
// next one asks too, and its answer is for all that wait.
func TestSecondLeaderAnswersAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := says(nil, "www.example.org. 60 IN A 192.0.2.1")
		answer, release, first := src.answer, make(chan struct{}), true
		src.answer = func(ctx context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
			if first {
				first = false
				<-release
				return dns.RcodeServerFailure, context.DeadlineExceeded
			}
			return answer(ctx, w, r)
		}
		c := cacheOf(t, Config{}, src)
		www := question("www.example.org.", dns.TypeA)
		leader := askAll(c, 1, www)
		synctest.Wait()
		waiters := askAll(c, 10, www)
		synctest.Wait()
		time.Sleep(sides.LeadFor)
		synctest.Wait()
		if src.count() != 1 {
			t.Errorf("%d questions", src.count())
		}
		if m := ask(t, c, www); m == nil || len(m.Answer) != 1 {
			t.Errorf("%v", m)
		}
		for _, w := range waiters() {
			if m := w.last(); m == nil || len(m.Answer) != 1 {
				t.Errorf("%v", m)
			}
		}
		if src.count() != 2 || c.flights.waiting != 0 {
			t.Errorf("%d questions, %d wait", src.count(), c.flights.waiting)
		}
		close(release)
		leader()
		if len(c.flights.byKey) != 0 {
			t.Error("flights are left")
		}
	})
}

// A failure to answer odd options says nothing about the name.
func TestFailureOfAnOddQuestionIsNotKept(t *testing.T) {
	src := &source{}
	src.answer = func(ctx context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
		if !front.Usual(r) {
			return dns.RcodeServerFailure, context.DeadlineExceeded
		}
		return says(nil, "www.example.org. 60 IN A 192.0.2.1").answer(ctx, w, r)
	}
	c := cacheOf(t, Config{}, src)
	odd := question("www.example.org.", dns.TypeA, func(r *dns.Msg) {
		r.SetEdns0(1232, false)
		r.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_LOCAL{Code: 65001, Data: []byte("x")}}
	})
	_, _ = c.ServeDNS(t.Context(), &clientWriter{}, odd)
	if m := ask(t, c, question("www.example.org.", dns.TypeA)); m == nil || len(m.Answer) != 1 {
		t.Errorf("%v", m)
	}
}

// The shape of a packet is the shape of its message.
func TestPacketAndMessageHaveTheSameShape(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := new(dns.Msg)
		r.SetQuestion("www.example.org.", dns.TypeA)
		r.RecursionDesired = rapid.Bool().Draw(t, "rd")
		if rapid.Bool().Draw(t, "edns") {
			r.SetEdns0(rapid.Uint16().Draw(t, "size"), rapid.Bool().Draw(t, "do"))
			for range rapid.IntRange(0, 2).Draw(t, "options") {
				var o dns.EDNS0 = &dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: rapid.SampledFrom([]string{"0102030405060708", "1112131415161718", ""}).Draw(t, "cookie")}
				if rapid.Bool().Draw(t, "padding") {
					o = &dns.EDNS0_PADDING{Padding: make([]byte, rapid.IntRange(0, 9).Draw(t, "length"))}
				}
				r.IsEdns0().Option = append(r.IsEdns0().Option, o)
			}
		}
		p, err := r.Pack()
		if err != nil {
			t.Fatal(err)
		}
		var q wire.Query
		if why := wire.ParseQuery(p, &q); why != wire.OK {
			t.Fatal(why)
		}
		if a, b := front.AppendShape(nil, r), front.AppendShapeOf(nil, p, &q); !bytes.Equal(a, b) {
			t.Fatalf("%x %x", a, b)
		}
	})
}
