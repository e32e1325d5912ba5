package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/penstock/penstock/benchmarks/internal/bench"
	"github.com/penstock/penstock/internal/dnsload"
)

const (
	dnsRounds   = 3
	dnsDuration = 2 * time.Second // a round of one server
	dnsCompared = 2000            // questions whose answers are compared
	dnsServices = 2000            // in the zone: enough for a cache to matter, and loaded in a second
	dnsReady    = 20 * time.Second
)

// dnsServer is a running CoreDNS.
type dnsServer struct {
	name string
	*bench.Server
	addr string
	cost []float64 // CPU-us a query, one a round
	rate []float64 // queries a second
}

// runDNS runs CoreDNS with our cache and with its own, over the same zone.
func runDNS(ctx context.Context, env *environment) (result, error) {
	var r result
	dir, err := env.scratch("dns")
	if err != nil {
		return r, err
	}
	mix := dnsload.NewMix(dnsload.MixOptions{Services: dnsServices, Queries: 60_000, Seed: 7})
	zones, err := mix.WriteZones(dir)
	if err != nil {
		return r, err
	}
	distinct := mix.Distinct()
	env.ui.say("zone of %d services, %d different questions (search paths, A, AAAA, SRV)", dnsServices, len(distinct))

	var servers []*dnsServer
	defer func() {
		for _, s := range servers {
			s.Stop()
		}
	}()
	for _, c := range []struct{ name, program string }{{"penstock", "coredns"}, {"stock cache", "coredns-stock"}} {
		s, err := startDNS(ctx, env, dir, zones, c.name, c.program)
		if err != nil {
			return r, err
		}
		servers = append(servers, s)
	}
	ours, stock := servers[0], servers[1]
	// One pass over all questions fills both caches, which answer from then on.
	for _, s := range servers {
		if _, err := dnsload.Run(ctx, dnsload.Options{Addr: s.addr, Queries: distinct, Outstanding: 100}); err != nil {
			return r, fmt.Errorf("%s: %w", s.name, err)
		}
	}
	compared := distinct[:min(dnsCompared, len(distinct))]
	diffs, err := dnsload.Compare(ctx, ours.addr, stock.addr, compared, 120)
	if err != nil {
		return r, err
	}
	if len(diffs) > 0 {
		return r, fmt.Errorf("%d of %d answers differ, the first for %v: %s", len(diffs), len(compared), diffs[0].Query, diffs[0].Text)
	}
	env.ui.say("%d answers compared: equal", len(compared))
	for range dnsRounds {
		for _, s := range servers {
			if err := s.round(ctx, mix.Queries); err != nil {
				return r, err
			}
		}
	}
	r.figure("compared", len(compared), "answers", fmt.Sprintf("%d compared, all equal", len(compared)))
	for _, s := range servers {
		key := strings.ReplaceAll(s.name, " ", "_")
		r.figure(key+"_cpu_us", median(s.cost), s.name, fmt.Sprintf("%.0f queries/s, %.1f CPU-us a query", median(s.rate), median(s.cost)))
		r.Figures[key+"_qps"] = median(s.rate)
	}
	ratio := median(ours.cost) / median(stock.cost)
	r.figure("cpu_ratio", ratio, "ratio", fmt.Sprintf("%.2fx the CPU a query (medians of %d rounds, in turns)", ratio, dnsRounds))
	return r, nil
}

// round loads one server and records its cost.
func (s *dnsServer) round(ctx context.Context, queries []dnsload.Query) error {
	before := s.CPU()
	res, err := dnsload.Run(ctx, dnsload.Options{Addr: s.addr, Queries: queries, Duration: dnsDuration})
	if err != nil {
		return fmt.Errorf("%s: %w", s.name, err)
	}
	if res.Answered == 0 || res.Wrong > 0 {
		return fmt.Errorf("%s: %d answers, %d of them wrong", s.name, res.Answered, res.Wrong)
	}
	s.cost = append(s.cost, float64((s.CPU()-before).Microseconds())/float64(res.Answered))
	s.rate = append(s.rate, res.Rate())
	return nil
}

func startDNS(ctx context.Context, env *environment, dir string, zones map[string]string, name, program string) (*dnsServer, error) {
	exe := filepath.Join(env.bin, program)
	if _, err := os.Stat(exe); err != nil {
		return nil, fmt.Errorf("program %s is missing: `make demo` builds it (%w)", exe, err)
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	corefile := filepath.Join(dir, program+".corefile")
	var b strings.Builder
	fmt.Fprintf(&b, ".:%d {\n  bind 127.0.0.1\n  errors\n  cache 3600 {\n    success 200000\n    denial 200000\n  }\n", port)
	for origin, file := range zones {
		fmt.Fprintf(&b, "  file %s %s\n", file, origin)
	}
	b.WriteString("}\n")
	if err := os.WriteFile(corefile, []byte(b.String()), 0o644); err != nil {
		return nil, err
	}
	srv, err := bench.StartServer([]string{exe, "-conf", corefile}, nil)
	if err != nil {
		return nil, err
	}
	s := &dnsServer{name: name, Server: srv, addr: fmt.Sprintf("127.0.0.1:%d", port)}
	wait, cancel := context.WithTimeout(ctx, dnsReady)
	defer cancel()
	err = srv.WaitReady(wait, func(ctx context.Context) error {
		_, err := dnsload.Ask(ctx, s.addr, dnsload.Query{Name: "cluster.local.", Type: typeSOA})
		return err
	})
	if err != nil {
		srv.Stop()
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return s, nil
}

const typeSOA = 6 // RFC 1035 section 3.2.2

// freePort returns a port that is free for UDP and TCP on loopback now.
func freePort() (int, error) {
	for range 10 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return 0, err
		}
		_, text, err := net.SplitHostPort(l.Addr().String())
		if err != nil {
			return 0, errors.Join(err, l.Close())
		}
		port, err := strconv.Atoi(text)
		if err != nil {
			return 0, errors.Join(err, l.Close())
		}
		u, err := net.ListenPacket("udp", l.Addr().String())
		if err = errors.Join(err, l.Close()); err == nil {
			return port, u.Close()
		}
	}
	return 0, errors.New("no port is free for both UDP and TCP on 127.0.0.1")
}

func median(v []float64) float64 {
	s := slices.Sorted(slices.Values(v))
	return s[len(s)/2]
}
