//penstock:pure

package ranges

import (
	"errors"
	"fmt"
	"time"
)

// RetryPolicy is the deadline policy of every request: ranges, and with package
// s3 also metadata, listings and credentials. It bounds one attempt (Stall,
// LeastRate) and one operation with all its attempts (Outage). The zero value
// works. It has no clock: its methods and those of [Retries] and [Progress] take
// times as durations since any fixed moment.
//
// An operation that gets nothing fails after Outage plus one attempt: 60 to 70 s
// by default. Every outage that ends within Outage is survived, because the last
// attempt starts no earlier than that. A host that names a time (Retry-After) can
// add half of Outage.
type RetryPolicy struct {
	// Outage is how long an operation is repeated while it makes no progress. 0
	// means 60 s: rolling restarts of stores and registries take 10 to 60 s.
	// Negative: nothing is repeated.
	Outage time.Duration
	// Stall ends an attempt that has received no byte for this long; the operation
	// continues at that byte on a new connection. 0 means 10 s (most clients of S3
	// answer within 1 s; the slowest answers measured there take 5 s). Negative:
	// never.
	Stall time.Duration
	// LeastRate, in bytes per second, ends an attempt that is slower than that over
	// three times Stall: a server that sends a byte every few seconds is never
	// silent and would hold its slot for ever. Progress slower than that does not
	// end an outage either. 0 means 1 KiB/s. Negative: any rate is accepted.
	LeastRate int64
	// Base is the longest first pause; it doubles with each failure in a row up
	// to Max. 0 means 20 ms and 5 s: a first 503 is most often one front end's, and
	// 5 s is how late the end of an outage may be noticed.
	Base, Max time.Duration
	// Attempts also bounds the number of failures in a row. 0 means that only time
	// does. Negative: 1.
	Attempts int
}

const (
	// DefaultOutage and DefaultStall are what zero means in a RetryPolicy.
	DefaultOutage = 60 * time.Second
	DefaultStall  = 10 * time.Second

	defaultLeastRate = 1 << 10
	// slowStalls is the window of LeastRate in units of Stall: 30 s, as dnf's and
	// other downloaders' low-speed limits.
	slowStalls = 3
	// leastGain is how many bytes an attempt must bring to count as progress: a
	// server that sends a few bytes for each connection must not keep us for ever,
	// and 128 requests for a part of 8 MiB are bearable.
	leastGain = 64 << 10
)

// WithDefaults returns the policy with its zero fields filled in.
func (p RetryPolicy) WithDefaults() RetryPolicy {
	if p.Outage == 0 {
		p.Outage = DefaultOutage
	}
	if p.Stall == 0 {
		p.Stall = DefaultStall
	}
	if p.LeastRate == 0 {
		p.LeastRate = defaultLeastRate
	}
	if p.Base == 0 {
		p.Base = 20 * time.Millisecond
	}
	if p.Max == 0 {
		p.Max = 5 * time.Second
	}
	if p.Attempts < 0 || p.Outage < 0 {
		p.Attempts = 1
	}
	return p
}

// Validate says what is wrong with the policy.
func (p RetryPolicy) Validate() error {
	if p.Base < 0 || p.Max < 0 {
		return fmt.Errorf("negative pause in the retry policy (base %v, max %v): use 0 for the defaults", p.Base, p.Max)
	}
	return nil
}

// hostPause bounds how long one Retry-After may hold up all requests to a host.
func (p RetryPolicy) hostPause(wish time.Duration) time.Duration {
	if p.Outage > 0 {
		return min(wish, p.Outage/2)
	}
	return wish
}

// Over returns why an attempt that last received a byte at lastByte has to be
// given up at now, or nil. Start a new Progress at the start of each attempt; got
// is the number of bytes since then. It is cheap enough to be called every few
// milliseconds.
func (p RetryPolicy) Over(g *Progress, now, lastByte time.Duration, got int64) error {
	if p.Stall < 0 {
		return nil
	}
	if now-lastByte >= p.Stall {
		return ErrStalled
	}
	if now-g.From < slowStalls*p.Stall {
		return nil
	}
	slow := p.LeastRate > 0 && float64(got-g.Got) < float64(p.LeastRate)*(now-g.From).Seconds()
	g.From, g.Got = now, got
	if slow {
		return ErrSlow
	}
	return nil
}

// Progress is how far an attempt was at the start of the window over which its
// rate is measured.
type Progress struct {
	From time.Duration // start of the window
	Got  int64         // bytes received by then
}

// Retries is the history of one operation. It is a value without a clock; the
// zero value is an operation that has not failed yet.
type Retries struct {
	inRow  int           // failures since the last progress
	since  time.Duration // when the outage began
	gained int64         // bytes since then
	doubts int           // verdicts that one more answer has to confirm
}

// Failure is how one attempt ended.
type Failure struct {
	Err        error
	Start, Now time.Duration // when the attempt began and ended
	// Waited is how long the operation had waited for its host when the attempt
	// began, if that was the first one. It counts as part of the outage.
	Waited   time.Duration
	Progress int64 // new bytes that the attempt has brought
	// Refused is the share of throttle answers among the host's last ones, Rand a
	// random number in [0,1) for the jitter.
	Refused, Rand float64
}

// Verdict says what to do after a failed attempt.
type Verdict struct {
	Retry bool
	After time.Duration // pause before the next attempt
	Fresh bool          // on a new connection
}

// A host that refuses few answers is not full: the limiter slows us down by that
// share, and the slot of the refused request goes to another one at once. To
// make the refused range wait as for a full host would only hold up who reads
// in order. It is asked again sooner, unless it is refused again and again: then
// it is the range (S3 limits rates by prefix).
const (
	seldom   = 0.25 // share of refused answers
	fewInRow = 3
)

// Next decides about a failed attempt.
func (r *Retries) Next(p RetryPolicy, f Failure) Verdict {
	kind, wish, fresh := classify(f.Err)
	r.gained += f.Progress
	progress := r.enough(p, f)
	if r.inRow == 0 || progress {
		r.since, r.gained = f.Start-max(f.Waited, 0), 0
		if progress {
			r.inRow, r.since = 0, f.Now
		}
	}
	r.inRow++
	if !r.mayRetry(kind, f.Err) || p.Attempts > 0 && r.inRow >= p.Attempts || f.Start-r.since >= p.Outage {
		return Verdict{}
	}
	v := Verdict{Retry: true, Fresh: fresh || kind != Throttled && !errors.Is(f.Err, errClipped)}
	// A body that broke after bringing bytes says nothing of the server's load:
	// continue at once from the received offset.
	if !progress || kind == Throttled {
		ceil := min(p.Base<<min(r.inRow-1, 30), p.Max)
		if ceil <= 0 {
			ceil = p.Max
		}
		if kind == Throttled && f.Refused < seldom && r.inRow <= fewInRow {
			ceil = min(ceil, p.Base/4)
		}
		// Full jitter between a half and the whole: all clients of a throttled
		// host must not come back together, none may come back at once.
		v.After = ceil/2 + time.Duration(f.Rand*float64(ceil/2))
	}
	v.After = max(v.After, wish)
	// The last attempt starts when the time is up, not before, and not much later.
	if left := r.since + p.Outage - f.Now; v.After > left {
		v.After = max(left, min(v.After, p.Base))
	}
	return v
}

// enough reports whether the bytes since the outage began end it.
func (r *Retries) enough(p RetryPolicy, f Failure) bool {
	if f.Progress == 0 {
		return false
	}
	since := f.Start
	if r.inRow > 0 {
		since = r.since
	}
	return r.gained >= leastGain && (p.LeastRate < 0 || float64(r.gained) >= float64(p.LeastRate)*(f.Now-since).Seconds())
}

// mayRetry reports whether another attempt may help. That an object has changed, that
// it ends before it should, or that its server ignores ranges is believed when a second
// answer says so: caches and proxies answer oddly now and then. 412 needs no second answer, because the
// server compared the validators itself.
func (r *Retries) mayRetry(kind FaultKind, err error) bool {
	switch kind {
	case Retryable, Throttled:
		return true
	case Changed, NoRanges, OutOfRange, WrongSize:
		most := 1
		if kind == WrongSize {
			most = wrongSizes
		}
		var f *Fault
		if r.doubts >= most || errors.As(err, &f) && f.Status == statusPreconditionFailed {
			return false
		}
		r.doubts++
		return true
	case NotFound, Denied, Permanent:
	}
	return false
}

// wrongSizes is how many answers of another size are repeated before the size that
// was expected is believed to be wrong. Stores have been seen to send empty bodies
// now and then; a manifest that states a wrong size has to fail soon.
const wrongSizes = 3

// statusPreconditionFailed is HTTP's 412; this package does not import net/http.
const statusPreconditionFailed = 412
