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
	// firstPause is the time for which a host that did not answer is asked
	// last. Each failure after a pause doubles it, up to maxPause. So a dead
	// mirror costs all pulls together one time-out every two minutes, and a
	// mirror that has recovered is used again soon.
	firstPause = 10 * time.Second
	maxPause   = 2 * time.Minute
)

// outage describes a host that did not answer. Its methods take the time as an
// argument and do not read the clock.
type outage struct {
	until  time.Time     // the host is asked last until then
	pause  time.Duration // the last pause
	silent bool          // the host gave no answer, not even a refusal
	once   bool          // only one failure so far, which may concern a single connection or front end
	err    error
}

// failed returns the outage after another failure. after is the pause that the
// host requested (Retry-After), or 0. Concurrent requests fail together, so a
// failure during a pause does not double it.
func (o outage) failed(now time.Time, after time.Duration, silent bool, err error) outage {
	if o.pause == 0 {
		o.pause = firstPause
	} else if !now.Before(o.until) {
		o.pause = min(2*o.pause, maxPause)
	}
	until := now.Add(max(o.pause, after))
	if until.After(o.until) {
		o.until = until
	}
	o.silent, o.err = silent, err
	return o
}

// hostHealth remembers, across all pulls of a client, the hosts that did not
// answer.
type hostHealth struct {
	mu      sync.Mutex // guards outages; a leaf lock
	outages map[string]outage
}

// record records the outcome of a request to a host. err is nil if the host
// answered.
func (r *hostHealth) record(h *host, now time.Time, err error) {
	f, _ := errors.AsType[*ranges.Fault](err)
	r.mu.Lock()
	defer r.mu.Unlock()
	// Any other error is about the content that the host sent, such as a
	// manifest that does not match its digest. It says nothing about other
	// images.
	if err == nil || f == nil && !errors.Is(err, errSilent) || f != nil && !lasting(f) {
		delete(r.outages, h.base)
		return
	}
	if r.outages == nil {
		r.outages = make(map[string]outage)
	}
	if o := r.outages[h.base]; o.pause == 0 && !o.once && transient(f, err) {
		r.outages[h.base] = outage{once: true}
		return
	}
	var after time.Duration
	if f != nil {
		after = f.RetryAfter
	}
	r.outages[h.base] = r.outages[h.base].failed(now, after, f == nil || f.Status == 0, err)
}

// lasting reports whether the next request to the host is likely to fail as
// well, because the host did not answer or is overloaded.
func lasting(f *ranges.Fault) bool {
	switch f.Kind {
	case ranges.Throttled:
		return true
	case ranges.Retryable:
		return f.Status == 0 || f.Status >= http.StatusInternalServerError
	case ranges.Permanent: // at the first contact: no such name, no route
		return f.Status == 0
	case ranges.Changed, ranges.NotFound, ranges.Denied, ranges.OutOfRange, ranges.NoRanges, ranges.WrongSize:
	}
	return false
}

// transient reports whether a failure may concern a single connection or front
// end: a 5xx answer, or an established connection that broke. Only the second
// failure in a row starts an outage.
func transient(f *ranges.Fault, err error) bool {
	if f == nil || f.Kind != ranges.Retryable || errors.Is(err, errSilent) {
		return false
	}
	op, ok := errors.AsType[*net.OpError](err)
	_, name := errors.AsType[*net.DNSError](err)
	return !name && !(ok && op.Op == "dial") && !os.IsTimeout(err)
}

// order returns the hosts with those in an outage last, sorted by the end of
// the outage.
func (r *hostHealth) order(hs []*host, now time.Time) []*host {
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

// up reports whether a host has no outage.
func (r *hostHealth) up(h *host, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return !now.Before(r.outages[h.base].until)
}

// allSilent returns the errors of the hosts if all of them recently gave no
// answer, or nil if one of them may answer now.
func (r *hostHealth) allSilent(hs []*host, now time.Time) *hostErrors {
	r.mu.Lock()
	defer r.mu.Unlock()
	errs := new(hostErrors)
	for i, h := range hs {
		o := r.outages[h.base]
		if !o.silent || !now.Before(o.until) {
			return nil
		}
		errs.add(h, o.err, i == len(hs)-1)
	}
	return errs
}

// answerTimer ends a resolution to which no host gives a usable answer. A nil
// answerTimer has no limit; all methods accept it.
type answerTimer struct {
	limit time.Duration

	mu      sync.Mutex // guards the fields below
	timer   *time.Timer
	paused  int
	stopped bool
	last    *hostErrors
}

// newAnswerTimer returns a timer that calls end when limit has passed without a
// usable answer, or nil if limit is 0.
func newAnswerTimer(limit time.Duration, end func()) *answerTimer {
	if limit <= 0 {
		return nil
	}
	return &answerTimer{limit: limit, timer: time.AfterFunc(limit, end)}
}

// answered records the status of an answer. It restarts the timer, unless the
// answer asks the client to come back later.
func (p *answerTimer) answered(status int) {
	if p == nil || status >= http.StatusInternalServerError || status == http.StatusTooManyRequests {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.paused == 0 && !p.stopped {
		p.timer.Reset(p.limit)
	}
}

// silence returns the time after which a host without an answer counts as
// silent. It is at most half of the limit, so that the hosts that were asked
// first count as silent when the timer ends the resolution.
func (p *answerTimer) silence() time.Duration {
	if p == nil {
		return staggerDelay
	}
	return min(staggerDelay, p.limit/2)
}

// remember keeps the last errors of the hosts for explain.
func (p *answerTimer) remember(errs *hostErrors) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last = errs
}

// errNoUsableAnswer is the cause of a context that an answerTimer ended.
var errNoUsableAnswer = errors.New("no usable answer")

// explain returns the error of a resolution that ran under ctx. If the timer
// ended it, the error lists the last errors of the hosts.
func (p *answerTimer) explain(ctx context.Context, err error) error {
	if p == nil || !errors.Is(context.Cause(ctx), errNoUsableAnswer) {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.last == nil {
		return fmt.Errorf("%w within %v", errNoUsableAnswer, p.limit)
	}
	return fmt.Errorf("%w within %v: %w", errNoUsableAnswer, p.limit, p.last)
}

// pause stops the timer until resume is called.
func (p *answerTimer) pause() (resume func()) {
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
		if p.paused--; p.paused == 0 && !p.stopped {
			p.timer.Reset(p.limit)
		}
	}
}

// stop ends the timer without calling end.
func (p *answerTimer) stop() {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stopped = true
	p.timer.Stop()
}

// hostErrors holds the errors of the hosts of a registry, the most informative
// first.
type hostErrors struct{ all []hostError }

type hostError struct {
	host string
	rank int
	err  error
}

// add adds the error of a host. own is set for the registry itself, whose
// answers about its content are authoritative.
func (e *hostErrors) add(h *host, err error, own bool) {
	e.all = append(e.all, hostError{h.name, rank(err, own), err})
	slices.SortStableFunc(e.all, func(a, b hostError) int { return cmp.Compare(a.rank, b.rank) })
}

// Error lists all errors on one line.
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

// Unwrap returns only the most informative error. With all of them, errors.Is
// would report an image as missing because one mirror lacks it.
func (e *hostErrors) Unwrap() error { return e.all[0].err }
