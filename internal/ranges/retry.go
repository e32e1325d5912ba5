//penstock:pure

package ranges

import (
	"errors"
	"fmt"
	"time"
)

// RetryPolicy is the deadline policy of every request: of ranges, and in package
// s3 also of metadata, listings and credentials. It bounds one attempt (Stall,
// LeastRate) and one operation with all its attempts (Outage). The zero value
// works. Times are durations since any fixed moment.
//
// An operation without progress fails after Outage plus one attempt, which is 60
// to 70 s by default. A hedge of the attempt before the last can add one attempt.
// The operation survives every outage that ends within Outage, because its last
// attempt starts no earlier. A host that names a pause (Retry-After) can add half
// of Outage.
type RetryPolicy struct {
	// Outage is how long an operation without progress is retried. 0 means 60 s,
	// because rolling restarts of stores and registries take 10 to 60 s. Negative
	// means no retries.
	Outage time.Duration
	// Stall ends an attempt that has received no byte for this long. The operation
	// continues at that byte on a new connection. 0 means 10 s (S3 usually answers
	// within 1 s; the slowest measured answers took 5 s). Negative means never.
	Stall time.Duration
	// LeastRate, in bytes per second, ends an attempt that is slower over three
	// times Stall. A server that sends a byte every few seconds is never silent,
	// and would hold its slot without end. Slower progress doesn't end an outage
	// either. 0 means 1 KiB/s. Negative means any rate is accepted.
	LeastRate int64
	// Base is the longest first pause. It doubles with each consecutive failure,
	// up to Max. 0 means 20 ms and 5 s: a first 503 usually comes from a single
	// front end, and the end of an outage should be noticed within 5 s.
	Base, Max time.Duration
	// Attempts also bounds the number of consecutive failures. 0 means no bound;
	// negative means 1.
	Attempts int
}

const (
	// DefaultOutage and DefaultStall are the values of zero in a RetryPolicy.
	DefaultOutage = 60 * time.Second
	DefaultStall  = 10 * time.Second

	defaultLeastRate = 1 << 10
	// slowStalls is the window of LeastRate in units of Stall. The result, 30 s, is
	// the low-speed limit of dnf and other downloaders.
	slowStalls = 3
	// leastGain is how many bytes make an attempt count as progress. A server that
	// sends a few bytes for each connection must not keep an operation alive
	// without end, and 128 requests for a part of 8 MiB are bearable.
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

// Validate reports the first mistake in the policy.
func (p RetryPolicy) Validate() error {
	if p.Base < 0 || p.Max < 0 {
		return fmt.Errorf("negative pause in the retry policy (base %v, max %v): use 0 for the defaults", p.Base, p.Max)
	}
	return nil
}

// hostPause bounds the pause by which one Retry-After delays all requests to a host.
func (p RetryPolicy) hostPause(wish time.Duration) time.Duration {
	if p.Outage > 0 {
		return min(wish, p.Outage/2)
	}
	return wish
}

// CheckProgress returns [ErrStalled] or [ErrSlow] if an attempt that last received
// a byte at lastByte must end at now, else nil. g is the attempt's own, made at
// its start, and got is the number of bytes since then. CheckProgress is cheap
// enough to be called every few milliseconds.
func (p RetryPolicy) CheckProgress(g *Progress, now, lastByte time.Duration, got int64) error {
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

// Progress is the state of an attempt at the start of the window over which its
// rate is measured.
type Progress struct {
	From time.Duration // start of the window
	Got  int64         // bytes received by then
}

// Retries is the history of one operation. The zero value is an operation without
// a failure.
type Retries struct {
	inRow  int           // failures since the last progress
	since  time.Duration // when the outage began
	gained int64         // bytes since the outage began
	doubts int           // answers that another answer has to confirm, see mayRetry
}

// Failure is the end of one failed attempt.
type Failure struct {
	Err        error
	Start, Now time.Duration // start and end of the attempt
	// Waited is how long the operation had waited for its host before its first
	// attempt. It counts as a part of the outage.
	Waited   time.Duration
	Progress int64 // new bytes that the attempt received
	// Refused is the share of throttle answers among the host's recent ones. Rand
	// is a random number in [0,1) for the jitter.
	Refused, Rand float64
}

// Verdict is the decision after a failed attempt.
type Verdict struct {
	Retry bool
	After time.Duration // pause before the next attempt
	Fresh bool          // on a new connection
}

// A host that refuses a small share of requests is not full. The limiter slows down
// by that share, and another request takes the slot of the refused one at once. A
// long pause would only hold up the reader that needs the refused range next, so
// the pause is short, unless the same range is refused several times. Then the
// host limits that range (S3 limits rates by prefix).
const (
	rareRefusals = 0.25 // share of refused answers
	fewFailures  = 3
)

// Next records a failed attempt and decides whether another one follows.
func (r *Retries) Next(p RetryPolicy, f Failure) Verdict {
	kind, wish, fresh := classify(f.Err)
	r.gained += f.Progress
	progress := r.outageEnded(p, f)
	if r.inRow == 0 || progress {
		r.since, r.gained = f.Start-max(f.Waited, 0), 0
		if progress {
			r.inRow, r.since = 0, f.Now
		}
	}
	r.inRow++
	if !r.mayRetry(kind, f.Err) || p.Attempts > 0 && r.inRow >= p.Attempts || r.isLast(p, f.Start) {
		return Verdict{}
	}
	v := Verdict{Retry: true, Fresh: fresh || kind != Throttled && !errors.Is(f.Err, errClipped)}
	// A body that broke after progress is not a sign of load, so the next attempt
	// continues at the received offset without a pause.
	if !progress || kind == Throttled {
		ceil := min(p.Base<<min(r.inRow-1, 30), p.Max)
		if ceil <= 0 {
			ceil = p.Max
		}
		if kind == Throttled && f.Refused < rareRefusals && r.inRow <= fewFailures {
			ceil = min(ceil, p.Base/4)
		}
		// The pause is between a half and the whole of the ceiling, so that the
		// clients of a throttled host don't return together, and none returns at
		// once.
		v.After = ceil/2 + time.Duration(f.Rand*float64(ceil/2))
	}
	v.After = max(v.After, wish)
	// The last attempt starts when the outage has lasted for Outage, not earlier,
	// and not much later.
	if left := r.since + p.Outage - f.Now; v.After > left {
		v.After = max(left, min(v.After, p.Base))
	}
	return v
}

// isLast reports whether an attempt that started then is the last of an operation
// that has failed before. It gets no hedge, which would end up to Stall after it.
func (r *Retries) isLast(p RetryPolicy, start time.Duration) bool {
	return r.inRow > 0 && start-r.since >= p.Outage
}

// outageEnded reports whether the bytes received since the outage began end it.
func (r *Retries) outageEnded(p RetryPolicy, f Failure) bool {
	if f.Progress == 0 {
		return false
	}
	since := f.Start
	if r.inRow > 0 {
		since = r.since
	}
	return r.gained >= leastGain && (p.LeastRate < 0 || float64(r.gained) >= float64(p.LeastRate)*(f.Now-since).Seconds())
}

// mayRetry reports whether another attempt may help. Caches and proxies sometimes
// answer wrongly, so a second answer has to confirm that an object has changed,
// that it ends early, or that its server ignores ranges. A 412 needs no
// confirmation, because the server compared the validators itself.
func (r *Retries) mayRetry(kind FaultKind, err error) bool {
	switch kind {
	case Retryable, Throttled:
		return true
	case Changed, NoRanges, OutOfRange, WrongSize:
		most := 1
		if kind == WrongSize {
			most = maxWrongSizes
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

// maxWrongSizes is how many answers of another size are retried before the expected
// size counts as wrong. Some stores send an empty body now and then, and a
// manifest that states a wrong size has to fail soon.
const maxWrongSizes = 3

// statusPreconditionFailed is HTTP's 412; this package does not import net/http.
const statusPreconditionFailed = 412
