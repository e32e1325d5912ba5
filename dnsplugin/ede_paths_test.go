//go:build linux && (amd64 || arm64)

package dnsplugin

import (
	"fmt"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/penstock/penstock/dnsplugin/internal/meters"
)

func TestStaleAnswersHaveAnExtendedErrorOnBothPaths(t *testing.T) {
	src := says(nil, "a.example.org. 60 IN A 192.0.2.1")
	b := bareServer(t, Config{MaxMem: MinMaxMemory, Stale: Stale{UpTo: 24 * time.Hour, ResponseTTL: 30 * time.Second, Recheck: 30 * time.Second}}, src)
	packet := func(edit ...func(*dns.Msg)) []byte {
		p, err := question("a.example.org.", dns.TypeA, edit...).Pack()
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	with, without := packet(withOPT), packet()
	errs := func(reply []byte) string {
		m := new(dns.Msg)
		if reply == nil || m.Unpack(reply) != nil || len(m.Answer) != 1 {
			t.Fatalf("%v", m)
		}
		return fmt.Sprint(errorsOf(m))
	}
	b.chain(with)
	fresh, _ := b.fast(with)
	if got := errs(fresh); got != "[]" {
		t.Errorf("fresh: %s", got)
	}
	src.dies()
	b.mu.Lock()
	b.clock = b.clock.Add(2 * time.Minute)
	b.mu.Unlock()
	const stale = "[15 3 (Stale Answer): ()]"
	if got := errs(b.chain(with)); got != stale {
		t.Errorf("through the chain: %s", got)
	}
	b.cache.refreshes.Wait() // and has failed, so the next is for the fast path
	reply, why := b.fast(with)
	if why != meters.Understood {
		t.Fatal(why)
	}
	if got := errs(reply); got != stale {
		t.Errorf("by the fast path: %s", got)
	}
	if reply, why := b.fast(without); why != meters.Understood || errs(reply) != "[]" {
		t.Errorf("to a client without OPT: %v %s", why, errs(reply))
	}
}
