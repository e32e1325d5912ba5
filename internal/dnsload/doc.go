// Package dnsload makes DNS questions as a cluster asks them, sends them to a
// server at full speed with a bounded number under way, and compares the
// answers of two servers. Demo, benchmarks and tests use it; nothing that
// ships does.
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
// # Failure model
//
// A lost answer is counted (Timeouts), an answer to something that was not
// asked or with another question is counted (Wrong), both never stop a run.
// A server that can't be reached at all does, with an error that names it.
//
// # Not here
//
// Open-loop load at a given rate, TCP load, and CPU accounting: the caller
// reads the server's own utime and stime.
package dnsload
