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
	// renewAtMost is the shortest time between two renewals. When many requests
	// fail with the same expired token, the first one renews it, and the others
	// use the result.
	renewAtMost = 5 * time.Second
	// renewGuess is the shortest time between two renewals after refusals that
	// may have another reason than the keys.
	renewGuess = time.Minute
	// refreshTimeout bounds one refresh. The SDK gives a helper the same time.
	refreshTimeout = time.Minute
)

// credentialSource provides the keys of requests and keeps them valid. It
// renews keys in the background before they expire, while requests still use
// the old ones; it repeats failed refreshes with back-off; and it reads the
// shared files again when they change or when the service refuses the keys.
type credentialSource struct {
	load func(context.Context) (keyChain, error) // reads the configuration; nil if chain never changes
	log  *slog.Logger
	wg   sync.WaitGroup
	// life bounds refreshes. It ends with close and not with a request, because
	// requests share refreshes.
	life context.Context //nolint:containedctx // the source's own lifetime, never a caller's
	stop context.CancelFunc

	ready atomic.Pointer[readyKeys] // keys that a request may use without the lock

	mu      sync.Mutex // guards the fields below; a leaf lock, never held during I/O
	state   keyState
	chain   keyChain
	refresh *refresh  // running, or nil
	force   bool      // the next refresh must ask the source, even if the files did not change
	renewed time.Time // when renew last asked for new keys
}

// readyKeys are keys that requests may use until a time without asking keyState.
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

// close cancels a running refresh and waits for its end.
func (s *credentialSource) close() {
	s.stop()
	s.wg.Wait()
}

// Retrieve returns the keys for a request. It waits for a refresh only if there
// are no valid keys.
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

// keysLocked returns the keys, or the reason why there are no keys. mu must be
// held.
func (s *credentialSource) keysLocked(now time.Time) (aws.Credentials, error) {
	if s.state.usable(now) {
		return s.state.keys, nil
	}
	return aws.Credentials{}, &credentialError{
		source: s.chain.source, hint: s.chain.hint, cause: s.state.err,
		blame: s.state.blame, kind: s.state.kind(), wait: max(0, s.state.next.Sub(now)),
	}
}

// startLocked starts a refresh unless one runs. mu must be held.
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

// fetch checks the files, and asks the source for keys if the files have
// changed or ask is set. Otherwise it returns no keys and no error.
func (s *credentialSource) fetch(ctx context.Context, chain keyChain, ask bool) (keyChain, aws.Credentials, error) {
	if s.load != nil && chain.changed() {
		next, err := s.load(ctx)
		if err != nil {
			chain.stamps = stampsOf(chain.files) // the next read waits for another change
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

// finishLocked stores the result of a refresh. mu must be held.
func (s *credentialSource) finishLocked(chain keyChain, keys aws.Credentials, err error) {
	now, watched := time.Now(), s.load != nil && len(chain.files) > 0
	s.chain = chain
	s.ready.Store(nil)
	switch {
	case err != nil:
		s.state.fail(err, blameOf(err), now, rand.Float64())
		if s.state.have {
			s.log.Warn("s3: credentials can't be renewed", "source", chain.source, "failures", s.state.fails,
				"valid", s.state.usable(now), "next", s.state.next.Sub(now).Round(time.Millisecond), "err", sourceMessage(err))
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

// suspicion is what an answer suggests about the keys of its request.
type suspicion int

const (
	suspectNothing suspicion = iota
	suspectGuess             // the keys may have expired; the answer to a HEAD has no body that says so
	suspectUnknown           // the service does not know the keys, or the signature does not match
	suspectExpired           // the service reports that the keys have expired
)

// suspects returns the suspicion that an answer raises.
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

// keyFacts are the facts about suspected keys that decide about a renewal.
type keyFacts struct {
	token   bool // the keys have a session token; keys without one do not expire
	local   bool // the caller provides them, so that asking again costs nothing
	changed bool // the shared files differ from when they were read
	since   time.Duration
}

// worthRenewing decides whether to ask the source again, and whether to repeat
// the request. Only a source whose keys may have changed is asked. A token
// service is asked at most once a minute if the refusal may have another reason
// than the keys, because a missing permission has the same answer for every
// object.
func worthRenewing(x suspicion, e *Error, f keyFacts) (renew, again bool) {
	switch {
	case x == suspectNothing:
		return false, false
	case f.changed, f.local, x == suspectExpired:
	case !f.token, e.Code == "SignatureDoesNotMatch", x == suspectGuess && e.Status != http.StatusBadRequest:
		return false, false
	case f.since < renewAtMost: // another request has renewed them
		return false, true
	default:
		return f.since >= renewGuess, f.since >= renewGuess
	}
	return f.since >= renewAtMost, true
}

// mayRenew reports whether new credentials could help, and makes the next
// request fetch them.
func (c *Client) mayRenew(e *Error) bool {
	if c.credentials == nil {
		return false
	}
	x := suspects(e)
	return x != suspectNothing && c.credentials.renew(x, e)
}

// renew makes the next Retrieve fetch keys if worthRenewing says so, and
// reports whether to repeat the request.
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

// credentialError reports that there are no usable keys.
type credentialError struct {
	source string // the configured source, or ""
	hint   string // likely mistake in the configuration
	cause  error
	blame  blame
	kind   ranges.FaultKind
	wait   time.Duration // until the source is asked again
}

// Error names the source and quotes its own message.
func (e *credentialError) Error() string {
	if e.blame == blameMissing || e.cause == nil {
		text := ErrNoCredentials.Error() + ": "
		if e.hint != "" {
			text += e.hint + "; "
		}
		return text + "tried the environment, shared profile, web identity, container and instance metadata; " +
			"set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or use anonymous access for a public bucket"
	}
	text := "no valid credentials: " + e.source + ": " + sourceMessage(e.cause)
	if e.kind == ranges.Retryable {
		text += fmt.Sprintf(" (asking again in %v)", max(e.wait, time.Second).Round(time.Second))
	}
	return text
}

// Unwrap returns the cause, and the sentinel if asking again cannot help.
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

// asCredentialError returns the reason why a request could not be signed.
func asCredentialError(err error) (*credentialError, bool) {
	var e *credentialError
	ok := errors.As(err, &e)
	return e, ok
}

// line makes foreign text safe for a message.
func line(s string) string { return printable.Line(s, maxMessage) }
