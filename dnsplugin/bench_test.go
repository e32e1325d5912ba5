package dnsplugin

import (
	"context"
	"testing"

	"github.com/coredns/coredns/plugin"
	"github.com/miekg/dns"
)

// nullWriter is a client that costs nothing.
type nullWriter struct{ clientWriter }

func (*nullWriter) WriteMsg(*dns.Msg) error { return nil }

// benchHits measures hits on a positive and a negative answer, through the
// handler alone: no socket and no packing.
func benchHits(b *testing.B, directive string, kind int, parallel bool) {
	w := &world{kind: map[string]int{"a.example.": kind}, ttl: map[string]uint32{"a.example.": 3600}}
	h := handlerFor(b, directive, "", w)
	if c, ok := h.(*Cache); ok {
		b.Cleanup(func() { c.Close() })
	}
	ask := func(h plugin.Handler, r *dns.Msg, w dns.ResponseWriter) {
		if rcode, err := h.ServeDNS(context.Background(), w, r); rcode != 0 || err != nil {
			b.Error(rcode, err)
		}
	}
	r := new(dns.Msg)
	r.SetQuestion("a.example.", dns.TypeA)
	ask(h, r, &nullWriter{})
	b.ReportAllocs()
	b.ResetTimer()
	if parallel {
		b.RunParallel(func(pb *testing.PB) {
			r, rw := r.Copy(), &nullWriter{}
			for pb.Next() {
				ask(h, r, rw)
			}
		})
		return
	}
	rw := &nullWriter{}
	for b.Loop() {
		ask(h, r, rw)
	}
}

func BenchmarkHit(b *testing.B) {
	for _, d := range []struct{ name, directive string }{{"ours", "penstock"}, {"coredns", "cache"}} {
		for name, kind := range map[string]int{"A": positive, "NXDOMAIN": nxdomain, "CNAME": cname} {
			b.Run(d.name+"/"+name, func(b *testing.B) { benchHits(b, d.directive, kind, false) })
			b.Run(d.name+"/"+name+"/parallel", func(b *testing.B) { benchHits(b, d.directive, kind, true) })
		}
	}
}
