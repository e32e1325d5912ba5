package main

import (
	"bytes"
	"context"
	"flag"
	"os"
	"slices"

	"github.com/miekg/dns"

	"github.com/penstock/penstock/benchmarks/internal/bench"
	"github.com/penstock/penstock/internal/dnsload"
)

// Names of the extra figures of a run.
const (
	extraP50  = "p50_ms"
	extraP99  = "p99_ms"
	extraLost = "lost"
	extraUser = "user_s"
	// extraBatch is how many questions ours took from its socket at once.
	extraBatch = "batch"
)

// asked has the flags of every role that asks questions.
type asked struct {
	addr              string
	services, queries int
}

// askedFlags returns the flags of a role.
func askedFlags(role string) (*flag.FlagSet, *asked) {
	fs, a := flag.NewFlagSet(role, flag.ContinueOnError), new(asked)
	fs.StringVar(&a.addr, "addr", "", "server, host:port")
	fs.IntVar(&a.services, "services", 0, "services of the mix")
	fs.IntVar(&a.queries, "queries", 0, "questions to ask")
	return fs, a
}

// runLoad is the role "load", which asks one server and prints one line. It
// reports answers where other areas report bytes.
func runLoad(ctx context.Context, args []string) error {
	fs, asked := askedFlags("load")
	hot := fs.Bool("hot", false, "ask one question over and over")
	if err := fs.Parse(args); err != nil {
		return err
	}
	mix := newMix(asked.services, asked.queries)
	if *hot {
		mix.Queries = mix.Queries[:1]
	}
	res, err := dnsload.Run(ctx, dnsload.Options{Addr: asked.addr, Queries: mix.Queries, Count: int64(asked.queries)})
	if err != nil {
		return err
	}
	r := bench.Report{
		Bytes: res.Answered, Requests: res.Sent, Seconds: res.Elapsed.Seconds(), Outcome: bench.OutcomeOK,
		Extra: map[string]float64{
			extraP50:  float64(res.Latency.P50.Microseconds()) / 1e3,
			extraP99:  float64(res.Latency.P99.Microseconds()) / 1e3,
			extraLost: float64(res.Timeouts + res.Wrong),
		},
	}
	return bench.PrintReport(os.Stdout, r)
}

// maxAddresses is how many of the longest addresses always fit into an answer
// of 512 bytes, together with the longest question here and the name server.
const maxAddresses = 14

// fitting returns the questions of the mix but those about names with more
// addresses than fit into an answer without EDNS.
func fitting(m *dnsload.Mix) []dnsload.Query {
	addresses := map[string]int{}
	for _, z := range m.Zones {
		p := dns.NewZoneParser(bytes.NewReader(z.Text), dns.Fqdn(z.Origin), "")
		for rr, ok := p.Next(); ok; rr, ok = p.Next() {
			if rr.Header().Rrtype == dns.TypeA {
				addresses[rr.Header().Name]++
			}
		}
	}
	return slices.DeleteFunc(slices.Clone(m.Queries), func(q dnsload.Query) bool { return addresses[q.Name] > maxAddresses })
}
