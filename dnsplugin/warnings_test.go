package dnsplugin

import (
	"bytes"
	"log"
	"net"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"github.com/penstock/penstock/dnsplugin/internal/fastpath"
	"github.com/penstock/penstock/dnsplugin/internal/front"
)

// logged returns the log of the time while f runs.
func logged(t *testing.T, f func()) string {
	t.Helper()
	var b bytes.Buffer
	was := log.Writer()
	log.SetOutput(&b)
	defer log.SetOutput(was)
	f()
	return b.String()
}

// A cache that never hits since all queries have a client subnet is counted,
// and said once.
func TestCacheWithOnlyClientSubnetsWarns(t *testing.T) {
	withSubnet := func(m *dns.Msg) {
		m.SetEdns0(1232, false)
		m.IsEdns0().Option = append(m.IsEdns0().Option, &dns.EDNS0_SUBNET{Code: dns.EDNS0SUBNET, Family: 1, SourceNetmask: 24, Address: net.IPv4(192, 0, 2, 0).To4()})
	}
	for _, tt := range []struct {
		what             string
		yieldWhenAwaited int // questions without
		said             int
	}{{"all", 0, 1}, {"all but one", 1, 0}} {
		src := says(nil, "a.example.org. 300 IN A 192.0.2.1")
		c := cacheOf(t, Config{}, src)
		out := logged(t, func() {
			for range tt.yieldWhenAwaited {
				ask(t, c, question("a.example.org.", dns.TypeA))
			}
			for range 2*subnetsBeforeWarning + 10 {
				ask(t, c, question("a.example.org.", dns.TypeA, withSubnet))
			}
		})
		if got := strings.Count(out, "each had a client subnet"); got != tt.said {
			t.Errorf("%s: said %d times: %s", tt.what, got, out)
		}
		if got := value(t, c.meters.Of("").Subnets); got != 2*subnetsBeforeWarning+10 {
			t.Errorf("%s: %v counted", tt.what, got)
		}
	}
}

// Sockets stay over a reload as they are, which is said.
func TestReloadWarnsAboutWorkersAndBatch(t *testing.T) {
	have := fastpath.Options{Workers: 1, Batch: 8}
	for _, tt := range []struct {
		want fastpath.Options
		said bool
	}{
		{have, false},
		{fastpath.Options{Workers: 1}, false}, // no zone has a fast path
		{fastpath.Options{Workers: 2, Batch: 8}, true},
		{fastpath.Options{Workers: 1, Batch: 128}, true},
	} {
		if got := front.NotApplied(tt.want, have); (got != "") != tt.said || tt.said && !strings.Contains(got, "with 1 workers and batches of 8") {
			t.Errorf("%+v: %q", tt.want, got)
		}
	}
}
