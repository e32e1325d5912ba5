// Package invariants holds assertions that cost nothing in a normal build.
//
// State machines and buffer owners write their invariants as code. A build with the
// tag "invariants" checks them and panics with a message. Other builds compile
// them away, because [Enabled] is a constant.
//
//	if invariants.Enabled {
//		invariants.Check(w.off <= w.end, "window: off %d > end %d", w.off, w.end)
//	}
//
// A check is a condition that only a bug in this program can make false. If outside
// bytes or a peer can make a condition false, the code returns an error instead.
// Poisoning overwrites a buffer that its former owner must no longer use, so that a
// use after release is noticed.
//
// All functions are safe for concurrent use. Failure model: panic. Non-goals: soft
// assertions, logging.
package invariants
