package ranges

import (
	"context"
	"errors"
	"time"
)

// RetryPolicy bounds how often and how fast a range is asked for again.
type RetryPolicy struct {
	// Attempts is the number of failures in a row, without a single new byte,
	// after which a range fails. 0 means 10 (Mountpoint's figure: with 10 %
	// failing requests one range in 10^10 is lost). Negative: 1.
	Attempts int
	// Base is the longest first pause; it doubles with each failure in a row up
	// to Max. 0 means 20 ms and 10 s: a first 503 is most often one front-end's,
	// ten in a row still spread over twenty seconds.
	Base, Max time.Duration
}

func (p *RetryPolicy) setDefaults() {
	if p.Attempts == 0 {
		p.Attempts = 10
	}
	p.Attempts = max(p.Attempts, 1)
	if p.Base == 0 {
		p.Base = 20 * time.Millisecond
	}
	if p.Max == 0 {
		p.Max = 10 * time.Second
	}
}

// maxBreaks bounds the failures of a range that do bring new bytes: a server
// that sends one byte a connection must not keep us for ever.
const maxBreaks = 100

// failures is the history of one range. It is a value without a clock.
type failures struct {
	inRow  int // since the last new byte
	breaks int // all
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

// verdict says what to do after a failed attempt.
type verdict struct {
	retry bool
	after time.Duration // pause before the next attempt
	fresh bool          // on a new connection
}

// next decides about a failed attempt that had brought progress bytes. refused
// is the share of throttle answers among the host's last ones, rnd a random
// number in [0,1) for the jitter.
func (f *failures) next(p RetryPolicy, err error, progress int64, refused, rnd float64) verdict {
	f.breaks++
	if progress > 0 {
		f.inRow = 0
	}
	f.inRow++
	kind, after, fresh := classify(err)
	if kind != Retryable && kind != Throttled {
		return verdict{}
	}
	if f.inRow >= p.Attempts || f.breaks >= maxBreaks {
		return verdict{}
	}
	v := verdict{retry: true, fresh: fresh || kind == Retryable}
	// A body that broke after bringing bytes says nothing of the server's
	// load: go on at once from the received offset.
	if progress == 0 || kind == Throttled {
		ceil := min(p.Base<<min(f.inRow-1, 30), p.Max)
		if ceil <= 0 {
			ceil = p.Max
		}
		if kind == Throttled && refused < seldom && f.inRow <= fewInRow {
			ceil = min(ceil, p.Base/4)
		}
		// Full jitter between a half and the whole: all clients of a throttled
		// host must not come back together, none may come back at once.
		v.after = ceil/2 + time.Duration(rnd*float64(ceil/2))
	}
	v.after = max(v.after, after)
	return v
}

// classify returns the kind of an error, the pause that the server asked for,
// and whether the connection is to blame.
func classify(err error) (kind FaultKind, after time.Duration, fresh bool) {
	var f *Fault
	if errors.As(err, &f) {
		return f.Kind, f.RetryAfter, f.Fresh
	}
	if errors.Is(err, ErrChanged) {
		return Changed, 0, false
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, ErrClosed) {
		return Permanent, 0, false
	}
	return Retryable, 0, true
}
