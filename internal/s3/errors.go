package s3

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/aws/smithy-go"

	"github.com/penstock/penstock/internal/httprange"
	"github.com/penstock/penstock/internal/printable"
	"github.com/penstock/penstock/internal/ranges"
)

// The errors that callers test for with errors.Is. The first two are the
// engine's, so that callers need not know whether the engine or this package
// failed.
var (
	ErrNotFound      = ranges.ErrNotFound                        // no such object, version, upload or bucket
	ErrDenied        = ranges.ErrDenied                          // credentials missing, wrong, expired or without the right
	ErrNoBucket      = errors.New("no such bucket")              // also matches ErrNotFound
	ErrPrecondition  = errors.New("precondition failed")         // IfMatch or IfNoneMatch does not hold
	ErrArchived      = errors.New("object is archived")          // must be restored first; also matches ErrDenied
	ErrNoCredentials = errors.New("no credentials found")        // also matches ErrDenied
	ErrListStuck     = errors.New("listing does not advance")    // the server repeats a page
	errTooLarge      = errors.New("answer is unreasonably long") // see maxAnswer
)

// Error is a failed operation.
type Error struct {
	Op          string // "head", "get", "list", "put", "upload", "copy", "delete", ...
	Bucket, Key string
	Status      int    // HTTP status, or 0 without an answer
	Code        string // S3 error code, or "" if the answer had none
	Message     string // the server's message, as one line, shortened
	RequestID   string
	Endpoint    string // scheme and host of the request
	Err         error  // cause, or nil if the answer is the cause

	kind       ranges.FaultKind
	retryAfter time.Duration
	region     string    // the bucket's region, if the answer corrects it
	date       time.Time // the server's time
	page       bool      // the answer was a web page
}

// Error returns one line with the operation, the object, the reason and the
// remedy.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString("s3: ")
	b.WriteString(e.Op)
	if e.Bucket != "" {
		b.WriteString(" s3://" + printable.Line(e.Bucket, maxMessage))
		if e.Key != "" {
			b.WriteString("/" + printable.Line(e.Key, 0))
		}
	}
	b.WriteString(": ")
	b.WriteString(e.reason())
	return b.String()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Is matches the sentinels by status and code.
func (e *Error) Is(target error) bool {
	switch target {
	case ErrNotFound:
		return e.kind == ranges.NotFound
	case ErrNoBucket:
		return e.Code == "NoSuchBucket"
	case ErrDenied:
		return e.kind == ranges.Denied
	case ErrPrecondition, ranges.ErrChanged:
		return e.kind == ranges.Changed
	case ErrArchived:
		return e.Code == "InvalidObjectState"
	}
	return false
}

// advice has the remedy for S3 codes.
var advice = map[string]string{
	"NoSuchBucket":          "no such bucket: check its name, the account and the endpoint",
	"NoSuchKey":             "no such object",
	"NoSuchVersion":         "no such version of the object",
	"NoSuchUpload":          "the upload is gone: it was aborted or has expired",
	"NotFound":              "no such object or bucket",
	"AccessDenied":          "access denied: the credentials lack the permission, or the object does not exist and listing is not permitted",
	"InvalidAccessKeyId":    "the access key is unknown here: check AWS_ACCESS_KEY_ID and the endpoint",
	"SignatureDoesNotMatch": "wrong secret key: check AWS_SECRET_ACCESS_KEY or the secret that it comes from; a proxy or gateway on the way that changes the host, the path or headers is answered so as well",
	"ExpiredToken":          "the session token has expired: renew the credentials",
	"ExpiredTokenException": "the session token has expired: renew the credentials",
	"RequestExpired":        "the request has expired: renew the credentials and check this machine's clock",
	"TokenRefreshRequired":  "the session token must be renewed",
	"InvalidToken":          "the session token is not valid: check AWS_SESSION_TOKEN, or unset it for long-term keys",
	"RequestTimeTooSkewed":  "this machine's clock is wrong: set it",
	"InvalidObjectState":    "the object is archived: restore it first",
	"SlowDown":              "the service asks to slow down",
	"PreconditionFailed":    "the object is not the expected one",
	"EntityTooLarge":        "the object is larger than the service takes",
	"BadDigest":             "the body arrived damaged: the checksum differs",
	"InvalidBucketName":     "not a bucket name: use 3 to 63 lower-case letters, digits, hyphens and dots, or an access-point ARN",
	"PermanentRedirect":     "the bucket is in another region: set the region",

	// A code of stores that want the bucket in the host's name.
	"SecondLevelDomainForbidden": "this service wants the bucket in the host's name: set addressing_style = virtual in the profile",
	"PathStyleDomainForbidden":   "this service wants the bucket in the host's name: set addressing_style = virtual in the profile",
}

// rightRE finds the missing right in the message of AccessDenied.
var rightRE = regexp.MustCompile(`not authorized to perform: ([a-z0-9-]+:[A-Za-z]+)`)

// reason returns the part of the message after the object's name.
func (e *Error) reason() string {
	if text, ok := e.transportReason(); ok {
		return text
	}
	text := advice[e.Code]
	switch {
	case e.Status == http.StatusProxyAuthRequired:
		text = fmt.Sprintf("the proxy %s wants to know who asks: put user and password into HTTPS_PROXY or HTTP_PROXY", proxyOf(e.Endpoint))
	case e.page:
		text = "the answer is a web page, which a proxy or gateway gives and a store does not: check the endpoint, HTTPS_PROXY, HTTP_PROXY and NO_PROXY"
	case e.Code == "AccessDenied" && rightRE.MatchString(e.Message):
		right := rightRE.FindStringSubmatch(e.Message)[1]
		text = "access denied: the identity lacks the right " + right
		if strings.HasPrefix(right, "kms:") {
			text += " on the key that the object is encrypted with"
		}
	case e.Op == opHead && e.Code == "" && e.Status == http.StatusBadRequest:
		text = "refused without a reason, since the answer to a HEAD has no body: perhaps the object is encrypted with a customer key " +
			"(penstock-cast --sse-customer-key-file, penstock-csi mount --sse-customer-key-file)"
	case e.Code == "InvalidRequest" && strings.Contains(e.Message, "Server Side Encryption"):
		text = "the object is encrypted with a customer key: give it by penstock-cast --sse-customer-key-file or penstock-csi mount --sse-customer-key-file"
	case text == "" && e.Code == "" && e.Status == http.StatusForbidden:
		text = advice["AccessDenied"]
	case text == "" && e.Status == http.StatusNotFound:
		text = advice["NotFound"]
	case text == "" && e.kind == ranges.Changed:
		text = advice["PreconditionFailed"]
	case text == "" && e.Message != "":
		text = e.Message
	case text == "" && e.Err != nil:
		return oneLine(e.Err.Error(), maxMessage)
	case text == "":
		text = "request failed"
	}
	tail := fmt.Sprint(e.Status)
	if e.Code != "" && e.Code != tail {
		tail += " " + e.Code
	}
	if e.RequestID != "" {
		tail += ", request " + e.RequestID
	}
	return text + " (" + tail + ")"
}

// transportReason explains failures that happened before an answer.
func (e *Error) transportReason() (string, bool) {
	if e.Status != 0 || e.Err == nil {
		return "", false
	}
	var hop *hopError
	if errors.As(e.Err, &hop) {
		there := *e
		there.Endpoint, there.Err = hop.to, hop.err
		text, ok := there.transportReason()
		return text + "; " + e.Endpoint + " redirects there", ok
	}
	var dns *net.DNSError
	var cert *tls.CertificateVerificationError
	keys, noKeys := asCredentialError(e.Err)
	switch {
	case noKeys:
		return keys.Error(), true
	case viaProxy(e.Err):
		return fmt.Sprintf("the proxy %s can't be used for %s (%s): check HTTPS_PROXY, HTTP_PROXY and NO_PROXY", proxyOf(e.Endpoint), e.Endpoint, shortReason(e.Err)), true
	case errors.Is(e.Err, syscall.ECONNREFUSED):
		return fmt.Sprintf("%s refuses connections: check that the server runs and that the endpoint is right", e.Endpoint), true
	case errors.Is(e.Err, ranges.ErrStalled) && e.Endpoint != "":
		return fmt.Sprintf("%s accepts connections but does not answer: %v; check the server, and firewalls on the way", e.Endpoint, e.Err), true
	case errors.As(e.Err, &dns):
		text := fmt.Sprintf("%s can't be resolved (%s): check the endpoint, the region and the network", e.Endpoint, dns.Err)
		if e.Bucket != "" && strings.HasPrefix(hostOf(e.Endpoint), e.Bucket+".") {
			text += "; if " + strings.TrimPrefix(hostOf(e.Endpoint), e.Bucket+".") + " has no host name for each bucket, " + pathAdvice
		}
		return text, true
	case errors.As(e.Err, &cert):
		text := fmt.Sprintf("%s has a certificate that is not trusted (%v): set AWS_CA_BUNDLE if it is yours", e.Endpoint, cert.Err)
		var name x509.HostnameError
		if errors.As(e.Err, &name) && e.Bucket != "" && strings.HasPrefix(hostOf(e.Endpoint), e.Bucket+".") {
			text = fmt.Sprintf("%s has a certificate for other names (%v): %s", e.Endpoint, cert.Err, pathAdvice)
		}
		return text, true
	case errors.Is(e.Err, syscall.ENETUNREACH), errors.Is(e.Err, syscall.EHOSTUNREACH):
		return fmt.Sprintf("%s can't be reached: check the network", e.Endpoint), true
	}
	return "", false
}

// pathAdvice says how to keep the bucket out of the host's name.
const pathAdvice = "put the bucket into the path: --path-style of penstock-cast and penstock-csi, or addressing_style = path in the profile"

func hostOf(endpoint string) string {
	_, host, _ := strings.Cut(endpoint, "://")
	return host
}

// viaProxy reports whether a request failed at the proxy or on the way there.
func viaProxy(err error) bool {
	var op *net.OpError
	var refused *httprange.ProxyError
	return errors.As(err, &op) && op.Op == "proxyconnect" || errors.As(err, &refused)
}

// proxyOf returns the proxy that requests to an endpoint go through.
func proxyOf(endpoint string) string {
	u, err := url.Parse(endpoint)
	if err != nil {
		return ""
	}
	proxy, err := http.ProxyFromEnvironment(&http.Request{URL: u})
	if err != nil || proxy == nil {
		return ""
	}
	return endpointOf(proxy)
}

// shortReason returns the reason why a connection failed, without its
// addresses.
func shortReason(err error) string {
	var refused *httprange.ProxyError
	var dns *net.DNSError
	var no syscall.Errno
	switch {
	case errors.As(err, &refused):
		return refused.Error()
	case errors.As(err, &dns):
		return dns.Err
	case errors.As(err, &no):
		return no.Error()
	}
	return oneLine(err.Error(), maxMessage)
}

const (
	// maxErrorBody bounds how much of an error's body is read. Real ones are
	// below 1 KiB.
	maxErrorBody = 64 << 10
	// maxMessage bounds foreign text in messages, in bytes.
	maxMessage = 300
	// maxCode bounds an S3 error code. The longest real one has 60 characters.
	maxCode = 64
)

// errorBody is an S3 error document.
type errorBody struct {
	XMLName   xml.Name `xml:"Error"`
	Code      string
	Message   string
	Region    string
	RequestID string `xml:"RequestId"`

	ActualObjectSize string // of InvalidRange; digits, or anything
}

// parseErrorBody reads an S3 error document. It returns the zero value for
// anything else, such as the page of a proxy. Codes of the result are single
// words, and messages single lines.
func parseErrorBody(r io.Reader) errorBody {
	data, err := io.ReadAll(io.LimitReader(r, maxErrorBody))
	if err != nil && len(data) == 0 {
		return errorBody{}
	}
	var b errorBody
	if xml.Unmarshal(data, &b) != nil {
		return errorBody{}
	}
	b.Code = word(b.Code)
	b.RequestID = word(b.RequestID)
	b.Message = oneLine(b.Message, maxMessage)
	if b.Region = strings.TrimSpace(b.Region); !regionRE.MatchString(b.Region) {
		b.Region = ""
	}
	return b
}

// word returns s if it is a short identifier, or "".
func word(s string) string {
	s = strings.TrimSpace(s)
	if len(s) > maxCode {
		return ""
	}
	for _, c := range s {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && !strings.ContainsRune("-_.:/+=", c) {
			return ""
		}
	}
	return s
}

// oneLine makes foreign text safe for a message: one line of at most n bytes,
// with single blanks, and with escapes for characters that are not printable.
func oneLine(s string, n int) string {
	return printable.Line(strings.Join(strings.Fields(s), " "), n)
}

// fromAnswer makes the error of an answer that is not a success. It reads the
// body, but does not close it.
func fromAnswer(resp *http.Response, now time.Time) *Error {
	e := &Error{Op: opGet, Status: resp.StatusCode}
	var body errorBody
	if resp.Body != nil {
		body = parseErrorBody(resp.Body)
	}
	e.Code, e.Message, e.RequestID = body.Code, body.Message, body.RequestID
	e.fillHeader(resp.Header, body.Region, now)
	e.kind = classify(e.Status, e.Code)
	e.page = e.Code == "" && strings.HasPrefix(resp.Header.Get("Content-Type"), "text/html")
	return e
}

// fillHeader reads the header of a failed answer.
func (e *Error) fillHeader(h http.Header, bodyRegion string, now time.Time) {
	if e.RequestID == "" {
		e.RequestID = word(h.Get("X-Amz-Request-Id"))
	}
	e.retryAfter, _ = httprange.ParseRetryAfter(h.Get("Retry-After"), now)
	e.region = redirect(e.Status, e.Code, e.Message, h.Get("X-Amz-Bucket-Region"), bodyRegion)
	if d, err := http.ParseTime(h.Get("Date")); err == nil {
		e.date = d
	}
}

// fromSDK makes the error of a failed SDK operation. It takes the failure that
// the HTTP client below the SDK saw, or else the SDK's own error.
func fromSDK(ctx context.Context, op, bucket, key string, err error, seen *witness) *Error {
	e := &Error{Err: err}
	var api smithy.APIError
	keys, noKeys := asCredentialError(err)
	switch {
	case isContext(ctx, err):
		e.Err, e.kind = context.Cause(ctx), ranges.Permanent
	case seen.failure != nil:
		e = seen.failure
	case noKeys:
		e.Err, e.kind, e.retryAfter = keys, keys.kind, keys.wait
	case errors.Is(err, errTooLarge):
		e.kind = ranges.Permanent
	case seen.sent == 0:
		e.kind = ranges.Permanent // refused by the SDK: a bad name, a missing parameter
	case errors.As(err, &api) && seen.status != 0:
		// An error document with status 200: CompleteMultipartUpload and
		// CopyObject send one if they fail after they have sent the header.
		e.Status, e.Code, e.Message = seen.status, word(api.ErrorCode()), oneLine(api.ErrorMessage(), maxMessage)
		e.kind = classify(http.StatusInternalServerError, e.Code)
	case seen.status != 0:
		e.Status, e.kind = seen.status, ranges.Retryable // a success whose body could not be read
	default:
		e.kind = classifyTransport(err)
	}
	e.Op, e.Bucket, e.Key = op, bucket, key
	return e
}
