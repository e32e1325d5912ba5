// Package rangestest has a [ranges.Source] in memory whose faults are scripted,
// and the conformance suite that every Source must pass.
//
//	src := &rangestest.Source{Data: data, Pin: "etag:1"}
//	src.Fault = func(n int, req ranges.Request) rangestest.Action {
//		return rangestest.Action{Cut: n == 3, CutAt: 1000} // the fourth body breaks
//	}
//	s := engine.Object(src, ranges.Spec{Name: "mem", Size: -1}).Stream(ctx, 0, -1, ranges.StreamOptions{})
//
// The source runs in fake time too (testing/synctest): its stalls and delays
// are timers, and nothing touches a socket. Its methods may be called from any
// number of goroutines; Fault is called from those of the requests.
//
// Use [Conform] in the tests of every implementation of Source.
package rangestest
