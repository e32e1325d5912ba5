package dnsplugin_test

import (
	"context"
	"fmt"
	"time"

	"github.com/coredns/coredns/plugin"
	"github.com/coredns/coredns/plugin/pkg/dnstest"
	"github.com/coredns/coredns/plugin/test"
	"github.com/miekg/dns"

	"github.com/penstock/penstock/dnsplugin"
)

// A Cache in front of a handler that counts how often it is asked.
func Example() {
	cache, err := dnsplugin.New(dnsplugin.Config{
		MaxMem: 4 << 20,
		Stale:  dnsplugin.Stale{UpTo: time.Hour, ResponseTTL: 30 * time.Second},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer cache.Close()

	asked := 0
	cache.Next = plugin.HandlerFunc(func(_ context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
		asked++
		m := new(dns.Msg)
		m.SetReply(r)
		m.Answer = []dns.RR{test.A("www.example.org. 60 IN A 192.0.2.1")}
		return dns.RcodeSuccess, w.WriteMsg(m)
	})

	for range 3 {
		question := new(dns.Msg)
		question.SetQuestion("www.example.org.", dns.TypeA)
		w := dnstest.NewRecorder(&test.ResponseWriter{})
		if _, err := cache.ServeDNS(context.Background(), w, question); err != nil {
			fmt.Println(err)
		}
		fmt.Println(w.Msg.Answer[0].(*dns.A).A)
	}
	fmt.Println("asked the source:", asked)
	// Output:
	// 192.0.2.1
	// 192.0.2.1
	// 192.0.2.1
	// asked the source: 1
}
