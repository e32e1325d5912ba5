package s3

import (
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/penstock/penstock/internal/ranges"
)

const (
	// refreshAhead is the earliest time before expiry at which keys are renewed.
	// Clients spread their renewals over a share of it, refreshSpread. Keys that
	// are valid for an hour are renewed 12 to 20 minutes before they expire. So a
	// token service can be down for 10 minutes without harm, and 10,000 clients
	// that started together ask 21 times a second.
	refreshAhead  = 20 * time.Minute
	refreshSpread = 0.4
	// watchEvery is how often the shared files are checked, by two stat calls.
	watchEvery = 10 * time.Second
	// firstRefreshWait and maxRefreshWait bound the waits between failed refreshes.
	firstRefreshWait = time.Second
	maxRefreshWait   = 30 * time.Second
	// bornExpired is how long keys are used that have already expired when the
	// source returns them. Either this machine's clock or the source is wrong, and
	// the service's answer shows which.
	bornExpired = time.Minute
	// helperTries is how often a failing helper is run before a client that has
	// never had keys gives up. The client cannot know whether the failure of a
	// helper is permanent.
	helperTries = 3
)

// blame is the cause of a failed refresh.
type blame int

const (
	blameNone    blame = iota
	blameMissing       // no source of keys is configured
	blameRefused       // the source refuses, or its configuration is wrong
	blameHelper        // a program failed, with a message of its own
	blamePassing       // the source does not answer, or asks us to wait
)

// keyState is the state of a client's keys. Its methods are pure, because they
// take the time and random numbers as arguments.
//
//	have && keys.Expires > now && !refused  <=>  keys are usable
type keyState struct {
	keys    aws.Credentials
	have    bool      // keys is set, though perhaps expired
	refused bool      // the service has refused the keys
	ahead   time.Time // when to fetch newer ones; zero if keys do not expire
	check   time.Time // when to check the files; zero without files
	fails   int       // failed refreshes since the last success
	next    time.Time // earliest time of a refresh after a failure
	err     error     // failure of the last refresh
	blame   blame
}

// step is the action for a request that needs keys.
type step int

const (
	stepUse           step = iota // use the keys
	stepUseAndRefresh             // use the keys, and fetch newer ones in the background
	stepRefresh                   // wait for keys
	stepFail                      // there are no keys, and it is too early to ask again
)

func (s step) String() string { return [...]string{"use", "use and refresh", "refresh", "fail"}[s] }

// usable reports whether requests may be signed with the keys.
func (k *keyState) usable(now time.Time) bool {
	return k.have && !k.refused && (!k.keys.CanExpire || now.Before(k.keys.Expires))
}

// due reports whether newer keys should be fetched or the files checked.
func (k *keyState) due(now time.Time) bool {
	return !k.ahead.IsZero() && !now.Before(k.ahead) || !k.check.IsZero() && !now.Before(k.check)
}

// step returns the action at a time.
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

// until returns the first time after now at which step may return another action
// than stepUse. It is called when step returns stepUse at now.
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

// succeed stores new keys, or the same keys again. r is a random number from
// [0, 1), and watched reports whether there are files to check.
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

// watch sets the time of the next check of the files, after a check that found
// no change.
func (k *keyState) watch(now time.Time, watched bool) {
	k.check = time.Time{}
	if watched {
		k.check = now.Add(watchEvery)
	}
}

// fail stores a failed refresh. Keys that the service has refused but that have
// not expired are used again, because the refusal may have been wrong.
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

// kind returns the kind of the failure that missing keys cause. A client that
// had keys before may get some again.
func (k *keyState) kind() ranges.FaultKind {
	switch {
	case k.have, k.blame == blamePassing, k.blame == blameHelper && k.fails < helperTries:
		return ranges.Retryable
	}
	return ranges.Denied
}
