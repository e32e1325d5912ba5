package s3

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/penstock/penstock/internal/ranges"
)

// script runs events on a keyState and prints its decisions. Times are seconds
// since the beginning.
//
//	ok LIFE       new keys that end LIFE seconds from now; 0: never
//	fail BLAME    a refresh fails
//	refuse        the service refuses the keys
//	at T          a request arrives at time T
func script(t *testing.T, text string) string {
	t.Helper()
	var k keyState
	var b strings.Builder
	began := time.Unix(0, 0)
	now := began
	for s := range strings.FieldsFuncSeq(text, func(r rune) bool { return r == ';' || r == '\n' }) {
		f := strings.Fields(s)
		if len(f) == 0 {
			continue
		}
		var n int
		if len(f) > 1 {
			_, _ = fmt.Sscan(f[1], &n)
		}
		switch f[0] {
		case "at":
			now = began.Add(time.Duration(n) * time.Second)
			fmt.Fprintf(&b, "%d %v", n, k.step(now))
			if k.step(now) == stepFail {
				fmt.Fprintf(&b, " (%v)", k.kind())
			}
			b.WriteString("; ")
		case "ok":
			keys := aws.Credentials{AccessKeyID: "A", SecretAccessKey: "s", CanExpire: n != 0, Expires: now.Add(time.Duration(n) * time.Second)}
			k.succeed(keys, now, 0, strings.Contains(s, "watched"))
		case "fail":
			k.fail(errors.New("no"), map[string]blame{"missing": blameMissing, "refused": blameRefused, "helper": blameHelper, "passing": blamePassing}[f[1]], now, 1)
		case "refuse":
			k.refused = true
		default:
			t.Fatalf("event %q", s)
		}
	}
	return strings.TrimSuffix(b.String(), "; ")
}

func TestKeyState(t *testing.T) {
	for _, tc := range []struct{ name, text, want string }{
		{"none yet", "at 0", "0 refresh"},
		{"for good", "ok 0; at 0; at 1000000", "0 use; 1000000 use"},
		{"an hour: renewed 20 minutes ahead", "ok 3600; at 2399; at 2400; at 3599; at 3600", "2399 use; 2400 use and refresh; 3599 use and refresh; 3600 refresh"},
		{"15 minutes: at half", "ok 900; at 449; at 450", "449 use; 450 use and refresh"},
		{"3 seconds: at half", "ok 3; at 1; at 2; at 3", "1 use; 2 use and refresh; 3 refresh"},
		{"a refresh fails while they are valid", "ok 3600; at 2400; fail passing; at 2400; at 2401; fail passing; at 2402; at 2403", "2400 use and refresh; 2400 use; 2401 use and refresh; 2402 use; 2403 use and refresh"},
		{"waits double up to 30 s", "ok 3600; at 3000; fail passing; fail passing; fail passing; fail passing; fail passing; at 3015; at 3016; fail passing; at 3045; at 3046; fail helper; at 3075; at 3076", "3000 use and refresh; 3015 use; 3016 use and refresh; 3045 use; 3046 use and refresh; 3075 use; 3076 use and refresh"},
		{"they end during an outage", "ok 10; at 9; fail passing; at 9; at 10; fail passing; at 11; at 12", "9 use and refresh; 9 use; 10 refresh; 11 fail (retryable); 12 refresh"},
		{"had keys, the source says no", "ok 10; at 10; fail refused; at 10", "10 refresh; 10 fail (retryable)"},
		{"never had keys, no source", "at 0; fail missing; at 0; at 1", "0 refresh; 0 fail (denied); 1 refresh"},
		{"never had keys, the source says no", "at 0; fail refused; at 0", "0 refresh; 0 fail (denied)"},
		{"never had keys, the source asks to wait", "at 0; fail passing; at 0; at 1; fail passing; at 1", "0 refresh; 0 fail (retryable); 1 refresh; 1 fail (retryable)"},
		{"never had keys, the helper fails three times", "fail helper; at 0; at 1; fail helper; at 1; at 3; fail helper; at 3", "0 fail (retryable); 1 refresh; 1 fail (retryable); 3 refresh; 3 fail (denied)"},
		{"files are looked at", "ok 0 watched; at 9; at 10", "9 use; 10 use and refresh"},
		{"refused by the service", "ok 3600; refuse; at 1; ok 3600; at 2", "1 refresh; 2 use"},
		{"refused, and no others to be had", "ok 3600; refuse; at 1; fail passing; at 1", "1 refresh; 1 use"},
		{"born expired", "ok -5; at 0; at 59; at 60", "0 use; 59 use and refresh; 60 refresh"},
	} {
		if got := script(t, tc.text); got != tc.want {
			t.Errorf("%s:\n got %s\nwant %s", tc.name, got, tc.want)
		}
	}
}

// Clients that started together do not renew together, and an outage of ten
// minutes fits between the first attempt and the expiry of the keys.
func TestRefreshesSpread(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	began := time.Unix(0, 0)
	perSecond := map[int]int{}
	for range 10_000 {
		var k keyState
		k.succeed(aws.Credentials{AccessKeyID: "A", CanExpire: true, Expires: began.Add(time.Hour)}, began, rnd.Float64(), false)
		if left := k.keys.Expires.Sub(k.ahead); left < 11*time.Minute || left > refreshAhead {
			t.Fatalf("renewed %v ahead", left)
		}
		perSecond[int(k.ahead.Sub(began)/time.Second)]++
	}
	most := 0
	for _, n := range perSecond {
		most = max(most, n)
	}
	if most > 50 {
		t.Errorf("%d refreshes in one second", most)
	}
}

// 10,000 clients start at once, and the token service serves 600 requests a
// second and throttles the rest. All clients get keys soon, with few requests.
func TestStartsSpread(t *testing.T) {
	const clients, quota = 10_000, 600
	rnd := rand.New(rand.NewPCG(3, 4))
	began := time.Unix(0, 0)
	states := make([]keyState, clients)
	requests, served, peak, second := 0, 0, 0, 0
	for ; served < clients && second < 1000; second++ {
		asked := 0
		// In random order, so that no client is always the first.
		for _, i := range rnd.Perm(clients) {
			k, now := &states[i], began.Add(time.Duration(second)*time.Second)
			if k.step(now) != stepRefresh {
				continue
			}
			asked++
			if asked <= quota {
				k.succeed(aws.Credentials{AccessKeyID: "A"}, now, 0, false)
				served++
			} else {
				k.fail(errors.New("Throttling"), blamePassing, now, rnd.Float64())
				if k.kind() != ranges.Retryable {
					t.Fatal("throttling is final")
				}
			}
		}
		requests += asked
		if second > 5 {
			peak = max(peak, asked)
		}
	}
	if served < clients || second > 90 || requests > 6*clients {
		t.Errorf("%d of %d served after %d s by %d requests", served, clients, second, requests)
	}
	t.Logf("served in %d s by %d requests, at most %d in a second after the first five", second, requests, peak)
}

// TestWorthRenewing checks after which refusals the source of the keys is asked
// again.
func TestWorthRenewing(t *testing.T) {
	token, static := keyFacts{token: true, since: time.Hour}, keyFacts{since: time.Hour}
	local, changed := keyFacts{token: true, local: true, since: time.Hour}, keyFacts{changed: true, since: time.Hour}
	after := func(f keyFacts, since time.Duration) keyFacts { f.since = since; return f }
	for _, tc := range []struct {
		status int
		code   string
		f      keyFacts
		want   string
	}{
		{400, "ExpiredToken", static, "renew"},
		{400, "ExpiredToken", after(token, time.Second), "again"},
		{400, "ExpiredToken", after(token, 6*time.Second), "renew"},
		{400, "", token, "renew"},
		{400, "", after(token, time.Second), "again"},
		{400, "", after(token, 30*time.Second), "no"}, // for example an object encrypted with a customer key
		{400, "", static, "no"},
		{400, "InvalidArgument", token, "no"},
		{403, "", token, "no"}, // a missing right has this answer for each object
		{403, "", static, "no"},
		{403, "", changed, "renew"},
		{403, "", local, "renew"},
		{403, "", after(local, time.Second), "again"},
		{403, "AccessDenied", token, "no"},
		{403, "AccessDenied", changed, "no"},
		{403, "InvalidAccessKeyId", token, "renew"},
		{403, "InvalidAccessKeyId", after(token, 30*time.Second), "no"},
		{403, "InvalidAccessKeyId", static, "no"},
		{403, "InvalidAccessKeyId", changed, "renew"},
		{403, "SignatureDoesNotMatch", token, "no"},
		{403, "SignatureDoesNotMatch", changed, "renew"},
		{404, "", changed, "no"},
		{503, "SlowDown", changed, "no"},
	} {
		e := &Error{Status: tc.status, Code: tc.code}
		renew, again := worthRenewing(suspects(e), e, tc.f)
		got := "no"
		if again {
			got = "again"
		}
		if renew {
			got = "renew"
		}
		if got != tc.want || renew && !again {
			t.Errorf("%d %s, %+v: %s, want %s", tc.status, tc.code, tc.f, got, tc.want)
		}
	}
}
