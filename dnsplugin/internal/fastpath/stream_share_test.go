package fastpath

import (
	"fmt"
	"net/netip"
	"testing"

	"pgregory.net/rapid"
)

type testSeat struct {
	client netip.Addr
	busy   bool
	at     int64
}

func (s *testSeat) used() (bool, int64) { return s.busy, s.at }

func TestPlacesAreSharedByClient(t *testing.T) {
	t.Parallel()
	hog, other := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	for _, c := range []struct {
		name  string
		seats []*testSeat
		from  netip.Addr
		want  int // index of the evicted one, or -1 if the new one is refused
	}{
		{"the longest idle one of the client with the most", []*testSeat{{hog, false, 5}, {hog, false, 3}, {hog, false, 9}, {other, false, 1}}, other, 1},
		{"not one that waits for answers while another does nothing", []*testSeat{{hog, true, 1}, {hog, false, 8}, {hog, false, 9}, {other, false, 0}}, other, 1},
		{"one that waits, if its client has many more", []*testSeat{{hog, true, 2}, {hog, true, 1}, {hog, true, 9}, {hog, true, 9}}, other, 1},
		{"the hog's new one takes the place of its own", []*testSeat{{hog, false, 5}, {hog, false, 3}, {hog, false, 9}, {other, false, 1}}, hog, 1},
		{"the hog gets none if it uses all", []*testSeat{{hog, true, 5}, {hog, true, 3}, {hog, true, 9}, {other, false, 1}}, hog, -1},
		{"among equals the longest idle one", []*testSeat{{hog, false, 5}, {other, false, 1}, {netip.MustParseAddr("192.0.2.3"), false, 3}, {netip.MustParseAddr("2001:db8::1"), false, 2}}, netip.MustParseAddr("192.0.2.9"), 1},
		{"among equals that all wait, none", []*testSeat{{hog, true, 5}, {other, true, 1}, {netip.MustParseAddr("192.0.2.3"), true, 3}, {netip.MustParseAddr("2001:db8::1"), true, 2}}, netip.MustParseAddr("192.0.2.9"), -1},
		{"an IPv6 host with many addresses is one client", []*testSeat{{netip.MustParseAddr("2001:db8::1"), false, 5}, {netip.MustParseAddr("2001:db8::2"), false, 4}, {hog, false, 1}, {other, false, 2}}, netip.MustParseAddr("192.0.2.9"), 1},
	} {
		p := newPlaces[*testSeat](len(c.seats))
		for _, s := range c.seats {
			if _, evicts, ok := p.take(s.client, s); evicts || !ok {
				t.Fatal(c.name)
			}
		}
		evicted, evicts, ok := p.take(c.from, &testSeat{client: c.from})
		got := -1
		for i, s := range c.seats {
			if evicts && s == evicted {
				got = i
			}
		}
		if got != c.want || ok != (c.want >= 0) {
			t.Errorf("%s: %d goes, want %d", c.name, got, c.want)
		}
	}
}

func TestPlacesKeepCount(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const most = 6
		p := newPlaces[*testSeat](most)
		held := map[*testSeat]bool{}
		for i := range rapid.IntRange(1, 80).Draw(t, "steps") {
			if len(held) > 0 && rapid.Bool().Draw(t, "leaves") {
				for s := range held {
					p.leave(s.client, s)
					p.leave(s.client, s) // twice does no harm
					delete(held, s)
					break
				}
			} else {
				s := &testSeat{netip.MustParseAddr(fmt.Sprintf("192.0.2.%d", rapid.IntRange(1, 4).Draw(t, "client"))), rapid.Bool().Draw(t, "busy"), int64(i)}
				evicted, evicts, ok := p.take(s.client, s)
				if evicts {
					if !held[evicted] || len(held) != most {
						t.Fatal("one that has no place goes, or one too many")
					}
					delete(held, evicted)
				}
				if ok {
					held[s] = true
				}
			}
			top := 0
			for k, hs := range p.holders {
				for h := range hs {
					if len(h.seats) != k {
						t.Fatal("holders")
					}
				}
				top = max(top, k)
			}
			if p.n != len(held) || p.n > most || p.top != top || p.top == 0 != (p.n == 0) {
				t.Fatalf("%d held, %+v", len(held), p)
			}
		}
	})
}
