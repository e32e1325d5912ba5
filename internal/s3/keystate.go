package s3

import (
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/penstock/penstock/internal/ranges"
)

const (
	// refreshAhead is how long before their end keys are renewed at the earliest,
	// and refreshSpread the share of that time over which clients spread. Keys of
	// an hour are renewed 12 to 20 minutes ahead: a token service may be down for
	// 10 minutes and costs nothing, and 10,000 clients that began together ask 21
	// times a second.
	refreshAhead  = 20 * time.Minute
	refreshSpread = 0.4
	// watchEvery is how often the shared files are looked at, by two stat calls.
	watchEvery = 10 * time.Second
	// firstRefreshWait and maxRefreshWait bound the waits between failed refreshes.
	firstRefreshWait = time.Second
	maxRefreshWait   = 30 * time.Second
	// bornExpired is how long keys are used that are out of date already when they
	// come: this machine's clock is wrong, or the source is; the service decides.
	bornExpired = time.Minute
	// helperTries is how often a helper that fails is run before a client that
	// never had keys gives up: it may fail for a moment or for good, and can't say.
	helperTries = 3
)

// blame is the cause of a failed refresh.
type blame int

const (
	blameNone    blame = iota
	blameMissing       // no source of keys is configured
	blameRefused       // the source says no, or its configuration is wrong
	blameHelper        // a program failed, in words of its own
	blamePassing       // the source does not answer, or asks to wait
)

// keyState is what a client knows of its keys: pure bookkeeping, with time and
// chance as arguments.
//
//	have && keys.Expires > now && !refused  <=>  keys are usable
type keyState struct {
	keys    aws.Credentials
	have    bool      // keys are there, perhaps expired
	refused bool      // the service does not take keys
	ahead   time.Time // when to fetch newer ones; zero: these last
	check   time.Time // when to look at the files; zero: there are none
	fails   int       // since the last success
	next    time.Time // no refresh before, after a failure
	err     error     // of the last refresh
	blame   blame
}

// step is what to do for a request that needs keys.
type step int

const (
	stepUse           step = iota // use the keys
	stepUseAndRefresh             // use them, and fetch newer ones meanwhile
	stepRefresh                   // wait for keys
	stepFail                      // there are none, and it is too early to ask again
)

func (s step) String() string { return [...]string{"use", "use and refresh", "refresh", "fail"}[s] }

// usable reports whether requests may be signed with the keys.
func (k *keyState) usable(now time.Time) bool {
	return k.have && !k.refused && (!k.keys.CanExpire || now.Before(k.keys.Expires))
}

// due reports whether newer keys should be fetched, or the files looked at.
func (k *keyState) due(now time.Time) bool {
	return !k.ahead.IsZero() && !now.Before(k.ahead) || !k.check.IsZero() && !now.Before(k.check)
}

// step decides.
func (k *keyState) step(now time.Time) step {
	waiting := now.Before(k.next)
	switch {
	case k.usable(now) && k.due(now) && !waiting:
		return stepUseAndRefresh
	case k.usable(now):
		return stepUse
	case waiting:
		return stepFail
	}
	return stepRefresh
}

// until returns when step may decide otherwise than stepUse, which it does now.
func (k *keyState) until(now time.Time) time.Time {
	t := now.Add(time.Hour)
	earlier := func(u time.Time) {
		if u.After(now) && u.Before(t) {
			t = u
		}
	}
	earlier(k.next)
	earlier(k.ahead)
	earlier(k.check)
	if k.keys.CanExpire {
		earlier(k.keys.Expires)
	}
	return t
}

// succeed takes new keys, or the same again. r is from [0, 1); watched is
// whether there are files to look at.
func (k *keyState) succeed(keys aws.Credentials, now time.Time, r float64, watched bool) {
	if keys.CanExpire && !keys.Expires.After(now) {
		keys.Expires = now.Add(bornExpired)
	}
	*k = keyState{keys: keys, have: true}
	if keys.CanExpire {
		window := min(refreshAhead, keys.Expires.Sub(now)/2)
		k.ahead = keys.Expires.Add(-window + time.Duration(r*refreshSpread*float64(window)))
	}
	k.watch(now, watched)
}

// watch sets the next look at the files, after one that found them unchanged.
func (k *keyState) watch(now time.Time, watched bool) {
	k.check = time.Time{}
	if watched {
		k.check = now.Add(watchEvery)
	}
}

// fail takes a failed refresh. Keys that the service has refused, but which are
// not out of date, are tried again: the refusal may have been the mistake.
func (k *keyState) fail(err error, b blame, now time.Time, r float64) {
	k.refused = false
	k.fails++
	wait := maxRefreshWait
	if k.fails <= 5 {
		wait = firstRefreshWait << (k.fails - 1)
	}
	k.next = now.Add(wait/2 + time.Duration(r*float64(wait/2)))
	k.err, k.blame = err, b
}

// kind says what may be done about the lack of keys: a client that had some may
// get some again.
func (k *keyState) kind() ranges.FaultKind {
	switch {
	case k.have, k.blame == blamePassing, k.blame == blameHelper && k.fails < helperTries:
		return ranges.Retryable
	}
	return ranges.Denied
}
