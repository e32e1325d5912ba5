//penstock:pure

package sides

import "time"

// Policy is the part of the configuration that decisions depend on.
type Policy struct {
	Prefetch Prefetch
	Stale    Stale
	KeepTTL  bool // reply with the stored TTL instead of the remaining one
	Coalesce bool // equal misses may wait for one fetch
}

// Prefetch says which fresh entries are refreshed before they expire.
type Prefetch struct {
	Amount     int           // hits that make an entry popular; 0 turns prefetching off
	Duration   time.Duration // the longest gap between those hits
	Percentage int           // of the TTL: only an entry with no more than this left is refreshed
}

// Stale says how expired entries are served. How long they are kept is a
// property of the entry, see store.Entry.
type Stale struct {
	Verify        bool          // ask the source before replying
	VerifyTimeout time.Duration // how long to wait for it; 0 waits until it answers or fails
	TTL           uint32        // TTL of stale replies, in seconds
	Recheck       time.Duration // pause after a failed refresh
	PreferAnswers bool          // an answer, even an expired one, goes before any denial
}

// Action says how a query is answered.
type Action uint8

const (
	Serve           Action = iota // reply from the entry; the source is not asked
	ServeAndRefresh               // reply from the entry and refresh it in the background
	AskFirst                      // ask the source; reply from the entry if that fails
	Ask                           // ask the source: there is no entry
)

var actionNames = [...]string{"serve", "serve and refresh", "ask first", "ask"}

// String returns the action in words.
func (a Action) String() string { return actionNames[a] }

// Attempt is the state of the latest refresh of an entry.
type Attempt uint8

const (
	NoAttempt Attempt = iota // none is running, and none failed a short time ago
	Running                  // one is running
	Paused                   // one failed, and the recheck pause is not over
)

// Facts are the properties of an entry, at the instant of a query, that decide
// how the query is answered.
type Facts struct {
	Left    int    // whole seconds until the entry expires; 0 or less for a stale one
	TTL     uint32 // seconds, as stored
	Hits    uint32 // counted hits, including this one; 0 if prefetching is off
	Attempt Attempt
}

// Decide returns the action for a query that f's entry answers, the TTL of a
// reply from that entry, and whether such a reply is stale.
func (p *Policy) Decide(f Facts) (action Action, ttl uint32, stale bool) {
	if f.Left > 0 {
		if f.Hits > 0 && f.Attempt != Running && p.popular(f) {
			action = ServeAndRefresh
		}
		return action, p.FreshTTL(f.Left, f.TTL), false
	}
	ttl = p.Stale.TTL
	if p.KeepTTL && ttl == 0 {
		ttl = f.TTL
	}
	switch {
	case p.Stale.Verify && !p.TracksVerify():
		// Each query asks for itself, also while a prefetch is running: that
		// may hang, and nothing bounds how long.
		return AskFirst, ttl, true
	case f.Attempt != NoAttempt:
		return Serve, ttl, true
	case p.Stale.Verify:
		return AskFirst, ttl, true
	}
	return ServeAndRefresh, ttl, true
}

// popular reports whether a fresh entry has enough hits, and little enough of
// its TTL left, to be refreshed. The threshold rounds up, so that with short
// TTLs the last second still counts.
func (p *Policy) popular(f Facts) bool {
	return int(f.Hits) >= p.Prefetch.Amount && f.Left <= (int(f.TTL)*p.Prefetch.Percentage+99)/100
}

// FreshTTL returns the TTL of a reply from an entry that has left seconds to
// live and was stored with ttl.
func (p *Policy) FreshTTL(left int, ttl uint32) uint32 {
	if p.KeepTTL {
		return ttl
	}
	return uint32(max(0, left))
}

// TracksVerify reports whether a query that asks the source before a stale
// reply counts as the entry's refresh. Then at most one runs at a time, and
// other queries get the stale reply at once. Without a timeout and a pause
// each query asks for itself.
func (p *Policy) TracksVerify() bool { return p.Stale.VerifyTimeout > 0 || p.Stale.Recheck > 0 }

// LeadFor is how long one query leads all others of its key. The source may
// have dropped it, so after that time the next query asks as well. A source
// that is only slow receives one more question per second for the name.
const LeadFor = time.Second
