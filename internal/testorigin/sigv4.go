package testorigin

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"
)

const (
	sigAlgorithm    = "AWS4-HMAC-SHA256"
	sigTimeFormat   = "20060102T150405Z"
	unsignedPayload = "UNSIGNED-PAYLOAD"
	// maxSkew bounds the error of a signer's clock, and maxExpires the life of
	// a presigned URL; both are S3's values.
	maxSkew    = 15 * time.Minute
	maxExpires = 7 * 24 * time.Hour
)

// sigv4 is a parsed signature, from the Authorization header or from the query
// of a presigned URL.
type sigv4 struct {
	accessKey string
	date      string // YYYYMMDD of the scope
	region    string
	service   string
	signed    []string // names of the signed headers, lower case, sorted
	signature string
	at        time.Time
	expires   time.Duration // presigned only
	token     string
	presigned bool
}

var errSigSyntax = errors.New("malformed AWS Signature Version 4")

// parseAuthorization reads "AWS4-HMAC-SHA256 Credential=.../...,
// SignedHeaders=a;b, Signature=hex".
func parseAuthorization(h string) (sigv4, error) {
	var s sigv4
	rest, ok := strings.CutPrefix(h, sigAlgorithm)
	if !ok || rest == "" || (rest[0] != ' ' && rest[0] != '\t') {
		return s, errSigSyntax
	}
	for field := range strings.SplitSeq(rest, ",") {
		name, value, ok := strings.Cut(strings.TrimSpace(field), "=")
		if !ok {
			return s, errSigSyntax
		}
		switch name {
		case "Credential":
			if err := s.setCredential(value); err != nil {
				return s, err
			}
		case "SignedHeaders":
			s.signed = strings.Split(value, ";")
		case "Signature":
			s.signature = value
		default:
			return s, errSigSyntax
		}
	}
	return s, s.check()
}

// parsePresigned reads the X-Amz-* parameters of a presigned URL.
func parsePresigned(q url.Values) (sigv4, error) {
	s := sigv4{presigned: true, signature: q.Get("X-Amz-Signature"), token: q.Get("X-Amz-Security-Token")}
	if q.Get("X-Amz-Algorithm") != sigAlgorithm {
		return s, errSigSyntax
	}
	if err := s.setCredential(q.Get("X-Amz-Credential")); err != nil {
		return s, err
	}
	s.signed = strings.Split(q.Get("X-Amz-SignedHeaders"), ";")
	n, err := strconv.ParseInt(q.Get("X-Amz-Expires"), 10, 32)
	if err != nil || n < 0 || time.Duration(n)*time.Second > maxExpires {
		return s, errSigSyntax
	}
	s.expires = time.Duration(n) * time.Second
	if s.at, err = time.Parse(sigTimeFormat, q.Get("X-Amz-Date")); err != nil {
		return s, errSigSyntax
	}
	return s, s.check()
}

// setCredential reads AKID/YYYYMMDD/region/service/aws4_request. The access key
// may itself contain slashes.
func (s *sigv4) setCredential(v string) error {
	f := strings.Split(v, "/")
	if n := len(f); n >= 5 && f[n-1] == "aws4_request" {
		s.accessKey = strings.Join(f[:n-4], "/")
		s.date, s.region, s.service = f[n-4], f[n-3], f[n-2]
		return nil
	}
	return errSigSyntax
}

func (s *sigv4) check() error {
	if s.accessKey == "" || len(s.date) != 8 || s.region == "" || s.service == "" || len(s.signature) != 64 {
		return errSigSyntax
	}
	if !slices.Contains(s.signed, "host") {
		return errSigSyntax
	}
	return nil
}

func (s *sigv4) scope() string {
	return s.date + "/" + s.region + "/" + s.service + "/aws4_request"
}

func hmacSHA256(key []byte, data string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(data))
	return h.Sum(nil)
}

func sha256Hex(p []byte) string {
	sum := sha256.Sum256(p)
	return hex.EncodeToString(sum[:])
}

func (s *sigv4) signingKey(secret string) []byte {
	k := hmacSHA256([]byte("AWS4"+secret), s.date)
	k = hmacSHA256(k, s.region)
	k = hmacSHA256(k, s.service)
	return hmacSHA256(k, "aws4_request")
}

// sign computes the signature of r with the signing key.
func (s *sigv4) sign(key []byte, r *http.Request, payloadHash string) string {
	canonical := canonicalRequest(r, s, payloadHash)
	toSign := sigAlgorithm + "\n" + s.at.UTC().Format(sigTimeFormat) + "\n" + s.scope() + "\n" + sha256Hex([]byte(canonical))
	return hex.EncodeToString(hmacSHA256(key, toSign))
}

// canonicalRequest returns the text that client and server hash: method, path,
// query, signed headers, payload hash.
func canonicalRequest(r *http.Request, s *sigv4, payloadHash string) string {
	var b strings.Builder
	b.WriteString(r.Method + "\n" + awsEscape(r.URL.Path, true) + "\n")
	b.WriteString(canonicalQuery(r.URL.Query()) + "\n")
	for _, name := range s.signed {
		b.WriteString(name + ":" + canonicalHeader(r, name) + "\n")
	}
	b.WriteString("\n" + strings.Join(s.signed, ";") + "\n" + payloadHash)
	return b.String()
}

func canonicalQuery(q url.Values) string {
	type pair struct{ k, v string }
	var pairs []pair
	for k, vs := range q {
		if k == "X-Amz-Signature" {
			continue
		}
		for _, v := range vs {
			pairs = append(pairs, pair{awsEscape(k, false), awsEscape(v, false)})
		}
	}
	sort.Slice(pairs, func(i, j int) bool {
		if pairs[i].k != pairs[j].k {
			return pairs[i].k < pairs[j].k
		}
		return pairs[i].v < pairs[j].v
	})
	var b strings.Builder
	for i, p := range pairs {
		if i > 0 {
			b.WriteByte('&')
		}
		b.WriteString(p.k + "=" + p.v)
	}
	return b.String()
}

// canonicalHeader returns the value of a signed header, which may be one that
// net/http keeps outside r.Header.
func canonicalHeader(r *http.Request, name string) string {
	switch name {
	case "host":
		return r.Host
	case "content-length":
		return strconv.FormatInt(r.ContentLength, 10)
	case "transfer-encoding":
		return strings.Join(r.TransferEncoding, ",")
	}
	values := slices.Clone(r.Header.Values(name))
	for i, v := range values {
		values[i] = strings.Join(strings.Fields(v), " ")
	}
	return strings.Join(values, ",")
}

const upperHex = "0123456789ABCDEF"

// awsEscape is the percent-encoding of Signature Version 4, which leaves
// unreserved characters, and "/" in a path.
func awsEscape(s string, path bool) string {
	var b strings.Builder
	for i := range len(s) {
		c := s[i]
		if 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' ||
			c == '-' || c == '.' || c == '_' || c == '~' || (path && c == '/') {
			b.WriteByte(c)
			continue
		}
		b.WriteByte('%')
		b.WriteByte(upperHex[c>>4])
		b.WriteByte(upperHex[c&15])
	}
	return b.String()
}

// identity is the sender of a request, with the key that checks the chunks of a
// signed streaming body.
type identity struct {
	anonymous bool
	sig       sigv4
	key       []byte // signing key
}

// authenticate verifies the signature of r with the payload hash that the
// client sent, which the body reader checks.
func (o *Origin) authenticate(r *http.Request) (identity, *s3Error) {
	q := r.URL.Query()
	var s sigv4
	var err error
	payload := r.Header.Get("X-Amz-Content-Sha256")
	switch h := r.Header.Get("Authorization"); {
	case q.Has("X-Amz-Signature") || q.Has("X-Amz-Algorithm"):
		if h != "" {
			return identity{}, s3err(http.StatusBadRequest, "InvalidArgument",
				"Only one auth mechanism allowed; only the X-Amz-Algorithm query parameter, Signature query string parameter or the Authorization header should be specified")
		}
		if s, err = parsePresigned(q); err != nil {
			return identity{}, s3err(http.StatusBadRequest, "AuthorizationQueryParametersError", "Error parsing the X-Amz-* query parameters.")
		}
		if payload == "" || !slices.Contains(s.signed, "x-amz-content-sha256") {
			payload = unsignedPayload
		}
	case h != "":
		if s, err = parseAuthorization(h); err != nil {
			return identity{}, s3err(http.StatusBadRequest, "AuthorizationHeaderMalformed", "The authorization header that you provided is not valid.")
		}
		if s.at, err = time.Parse(sigTimeFormat, r.Header.Get("X-Amz-Date")); err != nil {
			return identity{}, s3err(http.StatusForbidden, "AccessDenied", "AWS authentication requires a valid Date or x-amz-date header")
		}
		if payload == "" {
			return identity{}, s3err(http.StatusBadRequest, "InvalidRequest", "Missing required header for this request: x-amz-content-sha256")
		}
		s.token = r.Header.Get("X-Amz-Security-Token")
	case o.opts.Anonymous:
		return identity{anonymous: true}, nil
	default:
		return identity{}, s3err(http.StatusForbidden, "AccessDenied", "Access Denied")
	}
	if e := o.checkTimes(&s); e != nil {
		return identity{}, e
	}
	secret, e := o.secretOf(&s)
	if e != nil {
		return identity{}, e
	}
	key := s.signingKey(secret)
	if subtle.ConstantTimeCompare([]byte(s.sign(key, r, payload)), []byte(s.signature)) != 1 {
		return identity{}, s3err(http.StatusForbidden, "SignatureDoesNotMatch",
			"The request signature we calculated does not match the signature you provided. Check your key and signing method.")
	}
	return identity{sig: s, key: key}, nil
}

func (o *Origin) checkTimes(s *sigv4) *s3Error {
	now := o.now()
	switch {
	case s.date != s.at.UTC().Format("20060102"):
		return s3err(http.StatusForbidden, "SignatureDoesNotMatch", "The date of the credential scope is not the date of the request.")
	case s.presigned && now.After(s.at.Add(s.expires)):
		return s3err(http.StatusForbidden, "AccessDenied", "Request has expired")
	case s.at.After(now.Add(maxSkew)), !s.presigned && now.After(s.at.Add(maxSkew)):
		return s3err(http.StatusForbidden, "RequestTimeTooSkewed", "The difference between the request time and the current time is too large.")
	}
	return nil
}

func (o *Origin) secretOf(s *sigv4) (string, *s3Error) {
	if s.accessKey == AccessKey {
		return SecretKey, nil
	}
	for _, c := range o.opts.Credentials {
		if c.AccessKey != s.accessKey {
			continue
		}
		if c.SessionToken != s.token {
			return "", s3err(http.StatusBadRequest, "InvalidToken", "The provided token is malformed or otherwise invalid.")
		}
		if !c.Expires.IsZero() && o.now().After(c.Expires) {
			return "", s3err(http.StatusBadRequest, "ExpiredToken", "The provided token has expired.")
		}
		return c.SecretKey, nil
	}
	return "", s3err(http.StatusForbidden, "InvalidAccessKeyId", "The AWS Access Key Id you provided does not exist in our records.")
}

// presign returns u with the query of a presigned URL for method. Only the host
// header is signed.
func (o *Origin) presign(method string, u *url.URL, ttl time.Duration) string {
	now := o.opts.Now().UTC()
	if ttl < 0 { // already expired, but with a valid Expires
		now, ttl = now.Add(ttl-time.Second), 0
	}
	s := sigv4{
		accessKey: AccessKey, date: now.Format("20060102"), region: Region, service: "s3",
		signed: []string{"host"}, at: now, presigned: true,
	}
	q := u.Query()
	q.Set("X-Amz-Algorithm", sigAlgorithm)
	q.Set("X-Amz-Credential", AccessKey+"/"+s.scope())
	q.Set("X-Amz-Date", now.Format(sigTimeFormat))
	q.Set("X-Amz-Expires", strconv.Itoa(int((ttl+time.Second-1)/time.Second)))
	q.Set("X-Amz-SignedHeaders", "host")
	out := *u
	out.RawQuery = canonicalQuery(q)
	r := &http.Request{Method: method, URL: &out, Host: u.Host, Header: http.Header{}}
	out.RawQuery += "&X-Amz-Signature=" + s.sign(s.signingKey(SecretKey), r, unsignedPayload)
	return out.String()
}
