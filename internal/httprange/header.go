package httprange

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/penstock/penstock/internal/ranges"
)

// ParseContentRange parses "bytes first-last/size" (RFC 9110 section 14.4);
// size is -1 for "*".
func ParseContentRange(s string) (first, last, size int64, err error) {
	bad := func() (int64, int64, int64, error) {
		if s == "" {
			return 0, 0, -1, errors.New("206 answer without Content-Range")
		}
		return 0, 0, -1, fmt.Errorf("bad Content-Range %q", s)
	}
	unit, rest, ok := strings.Cut(s, " ")
	if !ok || !strings.EqualFold(unit, "bytes") {
		return bad()
	}
	span, total, ok := strings.Cut(strings.TrimSpace(rest), "/")
	if !ok {
		return bad()
	}
	from, to, ok := strings.Cut(span, "-")
	if !ok {
		return bad()
	}
	first, ok1 := digits(from)
	last, ok2 := digits(to)
	size = -1
	if total != "*" {
		var ok3 bool
		if size, ok3 = digits(total); !ok3 || last >= size {
			return bad()
		}
	}
	if !ok1 || !ok2 || last < first {
		return bad()
	}
	return first, last, size, nil
}

// unsatisfiedSize parses "bytes */size" of a 416. It returns -1 without a size.
func unsatisfiedSize(s string) int64 {
	rest, ok := strings.CutPrefix(s, "bytes */")
	if !ok {
		return -1
	}
	if n, ok := digits(rest); ok {
		return n
	}
	return -1
}

// digits parses a number without sign and spaces.
func digits(s string) (int64, bool) {
	if s == "" || s[0] < '0' || s[0] > '9' {
		return 0, false
	}
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil
}

// maxRetryAfter bounds the pause that a server may demand. A wrong clock or a
// maintenance page must not stop a job for a day. The next answer may extend it.
const maxRetryAfter = 2 * time.Minute

// ParseRetryAfter parses both forms of Retry-After (RFC 9110 section 10.2.3):
// seconds and a date. The result is at most two minutes. It returns false if h is
// empty, malformed or in the past.
func ParseRetryAfter(h string, now time.Time) (time.Duration, bool) {
	h = strings.TrimSpace(h)
	if h == "" {
		return 0, false
	}
	if n, ok := digits(h); ok {
		if n > int64(maxRetryAfter/time.Second) {
			return maxRetryAfter, true
		}
		return time.Duration(n) * time.Second, n > 0
	}
	t, err := http.ParseTime(h)
	if err != nil || !t.After(now) {
		return 0, false
	}
	return min(t.Sub(now), maxRetryAfter), true
}

// StatusFault classifies an answer that is neither 200, 206 nor 416.
func StatusFault(resp *http.Response, now time.Time) *ranges.Fault {
	kind := ranges.Permanent
	fresh := false
	switch code := resp.StatusCode; {
	case code == http.StatusTooManyRequests, code == http.StatusServiceUnavailable:
		kind = ranges.Throttled
	case code == http.StatusPreconditionFailed:
		kind = ranges.Changed
	case code == http.StatusNotFound, code == http.StatusGone:
		kind = ranges.NotFound
	case code == http.StatusUnauthorized, code == http.StatusForbidden:
		kind = ranges.Denied
	case code == http.StatusNotImplemented, code == http.StatusHTTPVersionNotSupported:
	case code >= 500, code == http.StatusRequestTimeout:
		kind, fresh = ranges.Retryable, true
	}
	f := fault(kind, resp, nil)
	f.Fresh = fresh
	f.RetryAfter, _ = ParseRetryAfter(resp.Header.Get("Retry-After"), now)
	return f
}

func fault(kind ranges.FaultKind, resp *http.Response, cause error) *ranges.Fault {
	where := ""
	if resp.Request != nil && resp.Request.URL != nil {
		where = RedactURL(resp.Request.URL.String())
	}
	if cause == nil {
		cause = fmt.Errorf("GET %s: status %s", where, status(resp))
	} else {
		cause = fmt.Errorf("GET %s: %w", where, cause)
	}
	return &ranges.Fault{Kind: kind, Status: resp.StatusCode, Err: cause}
}

func status(resp *http.Response) string {
	if t := http.StatusText(resp.StatusCode); t != "" {
		return strconv.Itoa(resp.StatusCode) + " " + t
	}
	return strconv.Itoa(resp.StatusCode)
}

// RedactURL returns the URL without user, query and fragment, where presigned
// URLs carry their secrets.
func RedactURL(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		s, _, _ := strings.Cut(raw, "?")
		return s
	}
	out := url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path, RawPath: u.RawPath}
	s := out.String()
	if u.RawQuery != "" {
		s += "?..."
	}
	return s
}

// unwrapURL drops the *url.Error around a client's error, which repeats the
// whole URL with its query.
func unwrapURL(err error) error {
	var ue *url.Error
	if errors.As(err, &ue) {
		return ue.Err
	}
	return err
}
