package s3

import (
	"context"
	"crypto/tls"
	"errors"
	"net/http"
	"regexp"

	"github.com/penstock/penstock/internal/ranges"
)

// classify returns the kind of a failed answer with this status and S3 code.
// Codes win over the status, because S3 reports both an expired token and a
// slow client as 400, and its clones disagree about statuses.
func classify(status int, code string) ranges.FaultKind {
	switch code {
	case "SlowDown", "Throttling", "ThrottlingException", "ThrottledException", "RequestThrottled",
		"RequestThrottledException", "RequestLimitExceeded", "TooManyRequests", "TooManyRequestsException",
		"BandwidthLimitExceeded", "ServiceUnavailable", "SlowDownRead", "SlowDownWrite":
		return ranges.Throttled
	case "InternalError", "InternalFailure", "RequestTimeout", "RequestTimeoutException", "IncompleteBody",
		"OperationAborted", "ConditionalRequestConflict", "RequestTimeTooSkewed", "XMinioServerNotInitialized":
		return ranges.Retryable
	case "PreconditionFailed":
		return ranges.Changed
	case "NoSuchKey", "NoSuchBucket", "NoSuchVersion", "NoSuchUpload", "NotFound", "NoSuchAccessPoint":
		return ranges.NotFound
	case "AccessDenied", "AllAccessDisabled", "AccountProblem", "InvalidAccessKeyId", "SignatureDoesNotMatch",
		"InvalidToken", "InvalidObjectState", "NotSignedUp", "InvalidSecurity":
		return ranges.Denied
	case "InvalidRange":
		return ranges.OutOfRange
	}
	if expired(code) {
		return ranges.Denied
	}
	switch {
	case status == http.StatusTooManyRequests, status == http.StatusServiceUnavailable:
		return ranges.Throttled
	case status == http.StatusPreconditionFailed:
		return ranges.Changed
	case status == http.StatusNotFound, status == http.StatusGone, status == http.StatusMethodNotAllowed:
		return ranges.NotFound // 405: the version asked for is a delete marker
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		return ranges.Denied
	case status == http.StatusRequestedRangeNotSatisfiable:
		return ranges.OutOfRange
	case status == http.StatusNotImplemented, status == http.StatusHTTPVersionNotSupported:
		return ranges.Permanent
	case status >= 500, status == http.StatusRequestTimeout:
		return ranges.Retryable
	}
	return ranges.Permanent
}

// expired reports whether a code means that new credentials of the same
// identity would be accepted.
func expired(code string) bool {
	switch code {
	case "ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired":
		return true
	}
	return false
}

// classifyTransport returns the kind of the failure of a request without an
// answer.
func classifyTransport(err error) ranges.FaultKind {
	var cert *tls.CertificateVerificationError
	var to *redirectError
	var keys *credentialError
	switch {
	case errors.As(err, &cert), errors.As(err, &to):
		return ranges.Permanent
	case errors.As(err, &keys):
		return keys.kind
	}
	return ranges.Retryable
}

// isContext reports whether err comes from a cancelled or expired context.
func isContext(ctx context.Context, err error) bool {
	return ctx.Err() != nil && (errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ctx.Err()))
}

// expectingRE finds the correct region in the message of
// AuthorizationHeaderMalformed, for servers that report it nowhere else.
var expectingRE = regexp.MustCompile(`expecting '([a-zA-Z0-9-]{1,63})'`)

// redirect returns the bucket's region if an answer reports it, or "".
func redirect(status int, code, message, headerRegion, bodyRegion string) string {
	switch {
	case status == http.StatusMovedPermanently, status == http.StatusTemporaryRedirect:
	case code == "PermanentRedirect", code == "TemporaryRedirect", code == "AuthorizationHeaderMalformed",
		code == "IllegalLocationConstraintException", code == "IncorrectEndpoint":
	case status == http.StatusBadRequest && (code == "" || code == "BadRequest"): // the answer to a HEAD has no body
	default:
		return ""
	}
	region := headerRegion
	if region == "" {
		region = bodyRegion
	}
	if region == "" {
		if m := expectingRE.FindStringSubmatch(message); m != nil {
			region = m[1]
		}
	}
	if !regionRE.MatchString(region) {
		return ""
	}
	return region
}
