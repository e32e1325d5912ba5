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
// leaves out tests that the full one runs. Only leaves count: a test with
// subtests counts through them, unless it fails while they pass.
//
// A skip must say which need is not met ("needs root: ..."). [Machine] reports
// which needs this machine meets; a skip for a need that is met is a failure, so
// that the privileged tests cannot fall asleep on the machine meant to run them.
//
// A test that fails and then passes when it is run again under the same load is
// unsteady ([Run.Again], [Run.MarkUnsteady]): it, or the code it tests, has a
// fault. It counts apart from passed and failed, and fails the run unless a list
// names its owner and a date at most two weeks ahead ([Excuse]).
//
// Nothing here is safe for concurrent use, and nothing runs a command: the
// caller runs go test and passes its output in.
package testsum
