package s3

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/penstock/penstock/internal/printable"
	"github.com/penstock/penstock/internal/ranges"
)

const (
	// renewAtMost keeps a crowd of requests that fail with the same expired token
	// from fetching as many new ones: the first renews, the others find it done.
	renewAtMost = 5 * time.Second
	// renewGuess is the same for refusals that are perhaps not about the keys.
	renewGuess = time.Minute
	// refreshTimeout bounds one refresh: as long as the SDK gives a helper.
	refreshTimeout = time.Minute
)

// credentialSource gives the keys for requests, and keeps them fresh: it renews
// them ahead of their end, in the background, while requests go on with those
// that are still valid; it repeats failed refreshes with back-off; and it reads
// the shared files again when they change or when the service refuses the keys.
type credentialSource struct {
	load func(context.Context) (keyChain, error) // reads the configuration; nil: chain never changes
	log  *slog.Logger
	wg   sync.WaitGroup
	life context.Context // ends with close; no request's own, since refreshes are shared
	stop context.CancelFunc

	ready atomic.Pointer[readyKeys] // the fast path: nothing to decide

	mu      sync.Mutex // guards what follows; a leaf lock, no I/O under it
	state   keyState
	chain   keyChain
	refresh *refresh  // running, or nil
	force   bool      // the next refresh must ask the source, not only look at the files
	renewed time.Time // last renew
}

// readyKeys are keys that are good without a further look until a time.
type readyKeys struct {
	keys  aws.Credentials
	until time.Time
}

// refresh is one fetch of keys that any number of requests wait for.
type refresh struct{ done chan struct{} }

func newCredentialSource(chain keyChain, load func(context.Context) (keyChain, error), log *slog.Logger) *credentialSource {
	s := &credentialSource{load: load, chain: chain, log: log}
	s.life, s.stop = context.WithCancel(context.Background())
	return s
}

// close ends refreshes.
func (s *credentialSource) close() {
	s.stop()
	s.wg.Wait()
}

// Retrieve returns the keys for a request. It waits only if there are none that
// are valid.
func (s *credentialSource) Retrieve(ctx context.Context) (aws.Credentials, error) {
	now := time.Now()
	if r := s.ready.Load(); r != nil && now.Before(r.until) {
		return r.keys, nil
	}
	s.mu.Lock()
	var running *refresh
	switch s.state.step(now) {
	case stepUse:
		s.ready.Store(&readyKeys{s.state.keys, s.state.until(now)})
	case stepUseAndRefresh:
		s.startLocked()
	case stepRefresh:
		running = s.startLocked()
	case stepFail:
	}
	if running == nil {
		defer s.mu.Unlock()
		return s.keysLocked(now)
	}
	s.mu.Unlock()
	select {
	case <-running.done:
	case <-ctx.Done():
		return aws.Credentials{}, context.Cause(ctx)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.keysLocked(time.Now())
}

// keysLocked returns the keys or the reason why there are none. mu is held.
func (s *credentialSource) keysLocked(now time.Time) (aws.Credentials, error) {
	if s.state.usable(now) {
		return s.state.keys, nil
	}
	return aws.Credentials{}, &credentialError{
		source: s.chain.source, hint: s.chain.hint, cause: s.state.err,
		blame: s.state.blame, kind: s.state.kind(), wait: max(0, s.state.next.Sub(now)),
	}
}

// startLocked starts a refresh unless one runs. mu is held.
func (s *credentialSource) startLocked() *refresh {
	if s.refresh != nil {
		return s.refresh
	}
	r := &refresh{done: make(chan struct{})}
	s.refresh = r
	ask := s.force || !s.state.usable(time.Now()) || !s.state.ahead.IsZero() && !time.Now().Before(s.state.ahead)
	s.force = false
	chain := s.chain
	s.wg.Go(func() {
		ctx, cancel := context.WithTimeoutCause(s.life, refreshTimeout, errRefreshTimeout)
		defer cancel()
		next, keys, err := s.fetch(ctx, chain, ask)
		if err != nil && ctx.Err() != nil {
			err = fmt.Errorf("%w: %w", context.Cause(ctx), err)
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.finishLocked(next, keys, err)
		s.refresh = nil
		close(r.done)
	})
	return r
}

var errRefreshTimeout = fmt.Errorf("no answer within %v", refreshTimeout)

// fetch looks at the files, and asks the source for keys if they have changed
// or ask is set. Without either it returns no keys and no error.
func (s *credentialSource) fetch(ctx context.Context, chain keyChain, ask bool) (keyChain, aws.Credentials, error) {
	if s.load != nil && chain.changed() {
		next, err := s.load(ctx)
		if err != nil {
			chain.stamps = stampsOf(chain.files) // not again before they change
			return chain, aws.Credentials{}, err
		}
		chain, ask = next, true
	}
	if !ask {
		return chain, aws.Credentials{}, nil
	}
	keys, err := chain.fetch(ctx)
	return chain, keys, err
}

// finishLocked takes the outcome of a refresh. mu is held.
func (s *credentialSource) finishLocked(chain keyChain, keys aws.Credentials, err error) {
	now, watched := time.Now(), s.load != nil && len(chain.files) > 0
	s.chain = chain
	s.ready.Store(nil)
	switch {
	case err != nil:
		s.state.fail(err, judge(err), now, rand.Float64())
		if s.state.have {
			s.log.Warn("s3: credentials can't be renewed", "source", chain.source, "failures", s.state.fails,
				"valid", s.state.usable(now), "next", s.state.next.Sub(now).Round(time.Millisecond), "err", words(err))
		}
	case keys.AccessKeyID == "":
		s.state.watch(now, watched)
	default:
		if s.state.have && s.state.keys.AccessKeyID != keys.AccessKeyID {
			s.log.Debug("s3: new credentials", "source", chain.source, "key", keys.AccessKeyID)
		}
		s.state.succeed(keys, now, rand.Float64(), watched)
	}
}

// suspicion is how an answer bears on the keys of its request.
type suspicion int

const (
	suspectNothing suspicion = iota
	suspectGuess             // they may have expired, or something else is wrong: HEAD has no body to say so
	suspectUnknown           // the service does not know them, or not like that
	suspectExpired           // it says that they have expired
)

// suspects reads an answer.
func suspects(e *Error) suspicion {
	switch {
	case expired(e.Code):
		return suspectExpired
	case e.Code == "InvalidAccessKeyId", e.Code == "InvalidToken", e.Code == "SignatureDoesNotMatch":
		return suspectUnknown
	case e.Code == "" && (e.Status == http.StatusBadRequest || e.Status == http.StatusForbidden || e.Status == http.StatusUnauthorized):
		return suspectGuess
	}
	return suspectNothing
}

// keyFacts is what is known of the keys that a suspicion is about.
type keyFacts struct {
	token   bool // they have a session token, without which they don't expire
	local   bool // the caller hands them out itself, which costs nothing
	changed bool // the shared files differ from when they were read
	since   time.Duration
}

// worthRenewing decides whether to ask the source again, and whether to repeat
// the request. Only what may have changed is asked, and a token service not more
// than once in a minute for what is perhaps no matter of keys: a permission
// that is missing is answered in the same way, by each object.
func worthRenewing(x suspicion, e *Error, f keyFacts) (renew, again bool) {
	switch {
	case x == suspectNothing:
		return false, false
	case f.changed, f.local, x == suspectExpired:
	case !f.token, e.Code == "SignatureDoesNotMatch", x == suspectGuess && e.Status != http.StatusBadRequest:
		return false, false
	case f.since < renewAtMost: // another request has done it
		return false, true
	default:
		return f.since >= renewGuess, f.since >= renewGuess
	}
	return f.since >= renewAtMost, true
}

// mayRenew reports whether new credentials could help, and sees to it that the
// next request gets them.
func (c *Client) mayRenew(e *Error) bool {
	if c.credentials == nil {
		return false
	}
	x := suspects(e)
	return x != suspectNothing && c.credentials.renew(x, e)
}

// renew makes the next Retrieve fetch keys if that is worth it, and reports
// whether to repeat the request.
func (s *credentialSource) renew(x suspicion, e *Error) bool {
	s.mu.Lock()
	chain := s.chain
	s.mu.Unlock()
	changed := s.load != nil && chain.changed()
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	f := keyFacts{token: s.state.keys.SessionToken != "", local: s.load == nil && s.state.keys.CanExpire, changed: changed, since: renewGuess}
	if !s.renewed.IsZero() {
		f.since = now.Sub(s.renewed)
	}
	renew, again := worthRenewing(x, e, f)
	if renew {
		s.renewed = now
		s.force, s.state.refused = true, true
		s.ready.Store(nil)
	}
	return again
}

// credentialError is the lack of usable keys.
type credentialError struct {
	source string // what was configured, "" if nothing was
	hint   string // what looks like a mistake in the configuration
	cause  error
	blame  blame
	kind   ranges.FaultKind
	wait   time.Duration // until the source is asked again
}

// Error names the source that was found and its own words.
func (e *credentialError) Error() string {
	if e.blame == blameMissing || e.cause == nil {
		text := ErrNoCredentials.Error() + ": "
		if e.hint != "" {
			text += e.hint + "; "
		}
		return text + "tried the environment, shared profile, web identity, container and instance metadata; " +
			"set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or use anonymous access for a public bucket"
	}
	text := "no valid credentials: " + e.source + ": " + words(e.cause)
	if e.kind == ranges.Retryable {
		text += fmt.Sprintf(" (asking again in %v)", max(e.wait, time.Second).Round(time.Second))
	}
	return text
}

// Unwrap returns the cause, and the sentinel if asking again is of no use.
func (e *credentialError) Unwrap() []error {
	out := make([]error, 0, 2)
	if e.kind == ranges.Denied {
		out = append(out, ErrNoCredentials)
	}
	if e.cause != nil {
		out = append(out, e.cause)
	}
	return out
}

// asCredentialError finds the reason of a request that could not be signed.
func asCredentialError(err error) (*credentialError, bool) {
	var e *credentialError
	ok := errors.As(err, &e)
	return e, ok
}

// line makes text of others fit for a message.
func line(s string) string { return printable.Line(s, maxMessage) }
