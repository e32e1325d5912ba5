// Package bench is the frame of every benchmark area: it runs ours and its
// peers interleaved, each as a process of its own, accounts for the cost of
// the process trees, and writes down the result with the machine it came from.
//
//	c := bench.Case{Name: "4 GiB object", Rounds: 5, Contestants: []bench.Contestant{
//		{Name: "penstock", Ours: true, Argv: []string{self, "ours", "-url", url}},
//		{Name: "curl", Argv: []string{"curl", "-so", "/dev/null", url}},
//	}}
//	m, err := bench.Measure(ctx, c, progress)    // rounds of samples for each contestant
//	res := bench.NewResult("engine", m...)       // + tables, verdicts, charts
//	dir, err := res.Write("benchmarks/engine/results")
//
// # Vocabulary
//
// An area (engine, image, dns, ...) has cases; a case has contestants, which
// run in rounds; one run of one contestant is a [Sample]. A contestant is a
// command line that does its work once and prints one JSON line about it
// ([Report]); a program that knows nothing of us prints none, and its samples
// then carry what can be seen from outside.
//
// # Measurement
//
// CPU time is user plus system time of the process and of every descendant that
// was waited for, as the kernel accounts for it at exit (wait4). Memory is the
// high-water mark of the resident set of the whole tree, polled, or the
// process's own VmHWM when there is one process only. Bytes and requests come
// from the origin's counters where the caller reads them in [Case.After], so a
// client cannot flatter itself. Contestants take turns within a round, and the
// order rotates from round to round: a machine that slows down hits all alike.
//
// # Failure model
//
// A contestant that exits non-zero is a sample with an outcome, not an error of
// the run: fault tables need it. An error of Before or After, or a cancelled
// context, ends the run; the contestant's process group is killed then.
//
// # Non-goals
//
// No load generation, no statistics beyond median and spread: a difference that
// needs a t-test to be seen is not a claim that we make.
package bench
