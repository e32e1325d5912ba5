package dnsplugin

import (
	"fmt"
	"testing"

	"github.com/miekg/dns"
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

// Every address comes first equally often: the bias is below 1 %.
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
	rnd := random(1)
	var first, last [n]int
	for range rounds {
		copy(reply, a.Msg())
		if !arrange(a, reply, &rnd) {
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
		},
		false: {
			{"example.org. 60 IN A 192.0.2.1", "example.org. 60 IN TXT x"},
			{"example.org. 60 IN A 192.0.2.1", "example.org. 60 IN CNAME a."},
			{"example.org. 60 IN A 192.0.2.1", "example.org. 60 IN AAAA ::1"},
			{"example.org. 60 IN A 192.0.2.1", "a.example.org. 60 IN A 192.0.2.2"},
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
			rnd := random(7)
			if got := arrange(a, reply, &rnd); got != want {
				t.Errorf("%v: %v", records, got)
			} else if !got && string(reply) != string(a.Msg()) {
				t.Errorf("%v: changed", records)
			}
		}
	}
}
