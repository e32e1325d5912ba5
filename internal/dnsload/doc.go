// Package dnsload generates the DNS questions of a cluster, sends them to a
// server at full speed with a bounded number under way, and compares the
// answers of two servers. It is for the demo, benchmarks and tests only.
//
//	mix := dnsload.NewMix(dnsload.MixOptions{Services: 1000, Queries: 30000})
//	files, err := mix.WriteZones(dir)            // for the server's file plugin
//	res, err := dnsload.Run(ctx, dnsload.Options{Addr: addr, Queries: mix.Queries})
//	fmt.Println(res.Answered, res.Rate(), res.Latency.P99)
//
// # Vocabulary
//
//   - mix: zones and a sequence of questions about them.
//   - flow: one UDP socket, hence one source port; servers spread load by it.
//   - outstanding: questions sent and not yet answered, over all flows.
//
// # Concurrency
//
// A [Mix] is read-only after [NewMix]. [Run] uses one goroutine per flow, and
// they have ended when it returns. All functions may run at the same time.
//
// # Failures
//
// A lost answer counts as a timeout, and an answer to another question as
// wrong. Neither ends a run. An unreachable server does, with an error that
// names it.
//
// The package does not send at a given rate or over TCP, and does not measure
// CPU; the caller reads utime and stime of the server.
package dnsload
