// Package invariants holds assertions that cost nothing in a normal build.
//
// State machines and buffer owners write their invariants down as code. A
// build with the tag "invariants" checks them and panics with a message; a
// build without it compiles them away: [Enabled] is a constant, so the branch
// and its arguments vanish.
//
//	type window struct {
//		off, end int64
//		closed   invariants.CloseOnce
//	}
//	if invariants.Enabled {
//		invariants.Check(w.off <= w.end, "window: off %d > end %d", w.off, w.end)
//	}
//
// Vocabulary: a check is a condition that only a bug in this program can make
// false, never one that outside bytes or a peer can; those are errors.
// Poisoning overwrites a buffer that its former owner may no longer use, so
// that a use after release gives loud garbage instead of quiet old data.
//
// Concurrency: [CloseOnce] may be closed from any goroutine; the functions
// keep no state. Failure model: panic. Non-goals: soft assertions, logging.
package invariants
