package registry

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/penstock/penstock/internal/ranges"
)

const (
	// firstPause is how long a host that did not answer is asked last; it doubles up to
	// maxPause with each failure after a pause. A dead mirror so costs one time-out in
	// two minutes, over all pulls, and one that is back is found soon.
	firstPause = 10 * time.Second
	maxPause   = 2 * time.Minute
)

// outage is what is known of a host that did not answer. It is a value without a clock.
type outage struct {
	until time.Time     // asked last until then
	pause time.Duration // the last one
	mute  bool          // it gave no answer at all, not even a refusal
	doubt bool          // one failure that may be a single connection's or front end's
	err   error
}

// failed is the outage after another failure. after is the pause that the host asked for, 0
// none. Requests that were under way together fail together, so a failure during a pause
// does not double it.
func (o outage) failed(now time.Time, after time.Duration, mute bool, err error) outage {
	if o.pause == 0 {
		o.pause = firstPause
	} else if !now.Before(o.until) {
		o.pause = min(2*o.pause, maxPause)
	}
	until := now.Add(max(o.pause, after))
	if until.After(o.until) {
		o.until = until
	}
	o.mute, o.err = mute, err
	return o
}

// reach remembers, over all pulls of a client, which hosts did not answer.
type reach struct {
	mu      sync.Mutex // guards outages; a leaf lock
	outages map[string]outage
}

// judge takes the outcome of a request to a host: nil is an answer.
func (r *reach) judge(h *host, now time.Time, err error) {
	f, _ := errors.AsType[*ranges.Fault](err)
	r.mu.Lock()
	defer r.mu.Unlock()
	// An error that is neither a fault nor silence is about what the host sent: a manifest that does
	// not match its digest, say. It tells nothing of other images.
	if err == nil || f == nil && !errors.Is(err, errSilent) || f != nil && !lasting(f) {
		delete(r.outages, h.base)
		return
	}
	if r.outages == nil {
		r.outages = make(map[string]outage)
	}
	if o := r.outages[h.base]; o.pause == 0 && !o.doubt && passing(f, err) {
		r.outages[h.base] = outage{doubt: true}
		return
	}
	var after time.Duration
	if f != nil {
		after = f.RetryAfter
	}
	r.outages[h.base] = r.outages[h.base].failed(now, after, f == nil || f.Status == 0, err)
}

// lasting reports whether a fault means that the next request to the host is likely to fail
// as well: it did not answer, or has had enough.
func lasting(f *ranges.Fault) bool {
	switch f.Kind {
	case ranges.Throttled:
		return true
	case ranges.Retryable:
		return f.Status == 0 || f.Status >= http.StatusInternalServerError
	case ranges.Permanent: // of the first contact: no such name, no route
		return f.Status == 0
	case ranges.Changed, ranges.NotFound, ranges.Denied, ranges.OutOfRange, ranges.NoRanges, ranges.WrongSize:
	}
	return false
}

// passing reports whether a failure may be that of one connection or front end: an answer of 5xx,
// or a connection that was made and broke. The second in a row counts.
func passing(f *ranges.Fault, err error) bool {
	if f == nil || f.Kind != ranges.Retryable || errors.Is(err, errSilent) {
		return false
	}
	op, ok := errors.AsType[*net.OpError](err)
	_, name := errors.AsType[*net.DNSError](err)
	return !name && !(ok && op.Op == "dial") && !os.IsTimeout(err)
}

// order returns hosts with those last that do not answer, the soonest to be asked again
// first.
func (r *reach) order(hs []*host, now time.Time) []*host {
	r.mu.Lock()
	defer r.mu.Unlock()
	until := func(h *host) time.Time {
		if o := r.outages[h.base]; now.Before(o.until) {
			return o.until
		}
		return time.Time{}
	}
	out := slices.Clone(hs)
	slices.SortStableFunc(out, func(a, b *host) int { return until(a).Compare(until(b)) })
	return out
}

// up reports whether a host is not known to be out.
func (r *reach) up(h *host, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return !now.Before(r.outages[h.base].until)
}

// mute returns why none of the hosts gave an answer lately; nil if one did, or may now.
func (r *reach) mute(hs []*host, now time.Time) *hostErrors {
	r.mu.Lock()
	defer r.mu.Unlock()
	errs := new(hostErrors)
	for i, h := range hs {
		o := r.outages[h.base]
		if !o.mute || !now.Before(o.until) {
			return nil
		}
		errs.add(h, o.err, i == len(hs)-1)
	}
	return errs
}

// patience ends a resolution to which no host gives a usable answer. All methods may be
// called on nil, which waits for ever.
type patience struct {
	limit time.Duration

	mu     sync.Mutex // guards what follows
	timer  *time.Timer
	paused int
	over   bool
	last   *hostErrors
}

// newPatience calls end when limit has passed without an answer; nil for no limit.
func newPatience(limit time.Duration, end func()) *patience {
	if limit <= 0 {
		return nil
	}
	return &patience{limit: limit, timer: time.AfterFunc(limit, end)}
}

// heard takes an answer's status. One that asks us to come back later is of no use.
func (p *patience) heard(status int) {
	if p == nil || status >= http.StatusInternalServerError || status == http.StatusTooManyRequests {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.paused == 0 && !p.over {
		p.timer.Reset(p.limit)
	}
}

// silence is how long a host that says nothing counts as silent: when the patience ends, those
// that were asked at its beginning.
func (p *patience) silence() time.Duration {
	if p == nil {
		return stagger
	}
	return min(stagger, p.limit/2)
}

// saw remembers what the hosts said last.
func (p *patience) saw(errs *hostErrors) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last = errs
}

// errPatience ends what patience bounds.
var errPatience = errors.New("no usable answer")

// blame returns the failure of a resolution that ran under ctx: what the hosts said rather
// than that the patience had an end.
func (p *patience) blame(ctx context.Context, err error) error {
	if p == nil || !errors.Is(context.Cause(ctx), errPatience) {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.last == nil {
		return fmt.Errorf("%w within %v", errPatience, p.limit)
	}
	return fmt.Errorf("%w within %v: %w", errPatience, p.limit, p.last)
}

// pause stops the clock until the function that it returns is called.
func (p *patience) pause() (resume func()) {
	if p == nil {
		return func() {}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.paused++
	p.timer.Stop()
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.paused--; p.paused == 0 && !p.over {
			p.timer.Reset(p.limit)
		}
	}
}

// stop ends it without calling end.
func (p *patience) stop() {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.over = true
	p.timer.Stop()
}

// hostErrors is what the hosts of a registry said, the most telling first.
type hostErrors struct{ all []hostError }

type hostError struct {
	host string
	rank int
	err  error
}

// add takes the failure of a host. own is the registry itself, which comes last and knows
// best what it has.
func (e *hostErrors) add(h *host, err error, own bool) {
	e.all = append(e.all, hostError{h.name, rank(err, own), err})
	slices.SortStableFunc(e.all, func(a, b hostError) int { return cmp.Compare(a.rank, b.rank) })
}

// Error tells all of them on one line.
func (e *hostErrors) Error() string {
	if len(e.all) == 1 {
		return e.all[0].err.Error()
	}
	said := make([]string, len(e.all))
	for i, h := range e.all {
		said[i] = h.host + ": " + h.err.Error()
	}
	return strings.Join(said, "; ")
}

// Unwrap returns the most telling one alone: that a mirror does not have an image does not
// mean that there is none.
func (e *hostErrors) Unwrap() error { return e.all[0].err }
