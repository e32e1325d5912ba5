package dnsplugin

import (
	"fmt"
	"testing"

	"github.com/miekg/dns"

	"github.com/penstock/penstock/dnsplugin/internal/front"
)

func answerOf(t testing.TB, records ...string) (*dns.Msg, []byte) {
	t.Helper()
	m := question("example.org.", dns.TypeA)
	m.Response = true
	for _, text := range records {
		rr, err := dns.NewRR(text)
		if err != nil {
			t.Fatal(err)
		}
		m.Answer = append(m.Answer, rr)
	}
	m.Compress = true
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return m, b
}

// Every address comes first equally often, with a bias below 1 %.
func TestOrderOfAddressesIsRandom(t *testing.T) {
	t.Parallel()
	const n, rounds = 5, 400_000
	records := []string{"example.org. 60 IN CNAME a.example.org."}
	for i := range n {
		records = append(records, fmt.Sprintf("a.example.org. 60 IN A 192.0.2.%d", i))
	}
	m, _ := answerOf(t, records...)
	a, ok := pack(m)
	if !ok {
		t.Fatal("pack")
	}
	reply := append([]byte{}, a.Msg()...)
	rnd := front.Random(1)
	var first, last [n]int
	for range rounds {
		copy(reply, a.Msg())
		if !front.Arrange(a, reply, &rnd) {
			t.Fatal("not arranged")
		}
		first[reply[a.TTLOffset(1)+9]]++
		last[reply[a.TTLOffset(n)+9]]++
	}
	for i := range n {
		for _, got := range []int{first[i], last[i]} {
			if got < rounds/n*99/100 || got > rounds/n*101/100 {
				t.Errorf("address %d: %d of %d", i, got, rounds)
			}
		}
	}
	got := new(dns.Msg)
	if err := got.Unpack(reply); err != nil || len(got.Answer) != n+1 {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, rr := range got.Answer {
		seen[rr.String()] = true
	}
	if len(seen) != n+1 {
		t.Errorf("records are lost: %v", got)
	}
}

// What loadbalance orders in another way than by moving addresses is left to it.
func TestOrderIsLeftToTheChain(t *testing.T) {
	t.Parallel()
	for want, sets := range map[bool][][]string{
		true: {
			{"example.org. 60 IN A 192.0.2.1"},
			{"example.org. 60 IN TXT x", "example.org. 60 IN TXT y"},
			{"example.org. 60 IN AAAA 2001:db8::1", "example.org. 60 IN AAAA 2001:db8::2"},
			{"example.org. 60 IN TXT x", "example.org. 60 IN A 192.0.2.1", "example.org. 60 IN MX 1 a."},
			{"example.org. 60 IN A 192.0.2.1", "example.org. 60 IN AAAA ::1"},
			{"example.org. 60 IN CNAME a.b.", "a.b. 60 IN A 192.0.2.1", "b. 60 IN A 192.0.2.1", "a.b. 60 IN AAAA ::1"},
		},
		false: {
			{"example.org. 60 IN A 192.0.2.1", "example.org. 60 IN TXT x"},
			{"example.org. 60 IN A 192.0.2.1", "example.org. 60 IN CNAME a."},
			{"example.org. 60 IN A 192.0.2.1", "a.example.org. 60 IN A 192.0.2.2"},
			{"example.org. 60 IN A 192.0.2.1", "a.example.org. 60 IN AAAA ::1", "a.example.org. 60 IN AAAA ::2"},
			{"example.org. 60 IN MX 1 a.", "example.org. 60 IN MX 1 b."},
			{"example.org. 60 IN MX 1 a.", "example.org. 60 IN A 192.0.2.1"},
		},
	} {
		for _, records := range sets {
			m, _ := answerOf(t, records...)
			a, ok := pack(m)
			if !ok {
				t.Fatal("pack")
			}
			reply := append([]byte{}, a.Msg()...)
			rnd := front.Random(7)
			if got := front.Arrange(a, reply, &rnd); got != want {
				t.Errorf("%v: %v", records, got)
			} else if !got && string(reply) != string(a.Msg()) {
				t.Errorf("%v: changed", records)
			}
		}
	}
}

// Addresses of several owners and lengths, as they come with SRV records, change
// places whole: every order of them comes equally often, and no record is lost.
func TestOrderOfMixedAddressesIsRandom(t *testing.T) {
	t.Parallel()
	for name, extra := range map[string][]string{
		"two lengths": {"a.example.org. 60 IN A 192.0.2.1", "a.example.org. 60 IN AAAA 2001:db8::1", "b.example.org. 60 IN A 192.0.2.2"},
		"one length":  {"a.example.org. 60 IN A 192.0.2.1", "b.example.org. 60 IN A 192.0.2.1", "b.example.org. 60 IN A 192.0.2.2"},
	} {
		m, _ := answerOf(t, "example.org. 60 IN SRV 0 1 2 a.example.org.", "example.org. 60 IN SRV 0 1 2 b.example.org.")
		for _, text := range extra {
			rr, err := dns.NewRR(text)
			if err != nil {
				t.Fatal(err)
			}
			m.Extra = append(m.Extra, rr)
		}
		a, ok := pack(m)
		if !ok {
			t.Fatal("pack")
		}
		const rounds = 60_000
		rnd, orders := front.Random(3), map[string]int{}
		for range rounds {
			reply := append([]byte{}, a.Msg()...)
			if !front.Arrange(a, reply, &rnd) {
				t.Fatal(name, "not arranged")
			}
			orders[string(reply)]++
		}
		if len(orders) != 6 {
			t.Errorf("%s: %d orders of three records", name, len(orders))
		}
		for reply, n := range orders {
			if n < rounds/6*95/100 || n > rounds/6*105/100 {
				t.Errorf("%s: an order came %d times of %d", name, n, rounds)
			}
			got := new(dns.Msg)
			if err := got.Unpack([]byte(reply)); err != nil || len(got.Answer) != 2 {
				t.Fatal(err)
			}
			seen := map[string]bool{}
			for _, rr := range got.Extra {
				seen[rr.String()] = true
			}
			for _, rr := range m.Extra {
				if !seen[rr.String()] {
					t.Errorf("%s: %v is lost: %v", name, rr, got)
				}
			}
		}
	}
}
