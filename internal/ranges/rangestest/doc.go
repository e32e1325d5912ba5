// Package rangestest provides a [ranges.Source] in memory with scripted faults, and
// the conformance suite that every Source must pass.
//
//	src := &rangestest.Source{Data: data, Pin: "etag:1"}
//	src.Fault = func(n int, req ranges.Request) rangestest.Action {
//		return rangestest.Action{Cut: n == 3, CutAt: 1000} // the fourth body breaks
//	}
//	s := engine.Object(src, ranges.Spec{Name: "mem", Size: -1}).Stream(ctx, 0, -1, ranges.StreamOptions{})
//
// The source works in fake time (testing/synctest), because its stalls and delays
// are timers, and it uses no socket. It is safe for concurrent use; the requests'
// goroutines call Fault.
//
// Use [Conform] in the tests of every implementation of Source.
package rangestest
