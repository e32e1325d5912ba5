// Package testsum adds up what the stages of a test run did and says whether
// the run counts.
//
//	var run testsum.Run
//	err := run.AddTests("unit", file)          // the output of go test -json
//	run.AddStage("vet", testsum.Pass, "")
//	for _, s := range run.Skips() { ... }
//	counts := run.Counts()                     // N passed, N failed, N skipped
//
// A test that one stage skips and another runs counts as run: the short stage
// leaves out what the full one does. Only leaves count: a test with subtests
// stands for nothing of its own, unless it fails beside subtests that pass.
//
// A skip must say what it needs ("needs root: ..."). [Machine] knows what this
// machine has; a skip for want of something that is here is a failure, so that
// the privileged tests cannot fall asleep on the very machine meant to run them.
//
// A test that fails on a busy machine and passes five times by itself does not fail the
// run ([Run.Again], [Run.Forgive]), but the run names it: such a test, or what it tests,
// has a fault to be found.
//
// Nothing here is safe for concurrent use, and nothing runs a command: the
// caller runs go test and hands its output over.
package testsum
