package s3

import (
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"strings"

	"github.com/penstock/penstock/internal/httprange"
)

// maxHops bounds how often one request is redirected. A store that spreads its
// objects over nodes needs one hop, and such a store behind a gateway needs two.
const maxHops = 4

// follower is the transport below all requests of a client. It follows the
// redirects of GET and HEAD that come from stores whose nodes each hold a part
// of the objects (Alluxio, AIStore), and signs each hop for its new host. It
// leaves redirects to another region to [Client.learn].
type follower struct {
	c    *Client
	base http.RoundTripper
}

// RoundTrip makes a request and follows its redirects.
func (f *follower) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := f.base.RoundTrip(req)
	if err != nil || resp.StatusCode < 300 || resp.StatusCode > 399 {
		return resp, err
	}
	for hop := 1; ; hop++ {
		to, err := redirectTo(req, resp, hop)
		if to == nil && err == nil {
			return resp, nil
		}
		_, _ = io.CopyN(io.Discard, resp.Body, maxErrorBody) // so that the connection can be used again
		resp.Body.Close()
		if err != nil {
			return nil, err
		}
		if req, err = f.requestFor(req, to); err != nil {
			return nil, err
		}
		if resp, err = f.base.RoundTrip(req); err != nil {
			return nil, &hopError{to: endpointOf(req.URL), err: err}
		}
	}
}

// hopError reports a failed request at a host that another one redirected to.
type hopError struct {
	to  string
	err error
}

func (e *hopError) Error() string { return fmt.Sprintf("redirected to %s: %v", e.to, e.err) }

// Unwrap returns the cause.
func (e *hopError) Unwrap() error { return e.err }

// CloseIdleConnections closes the connections that no request uses.
func (f *follower) CloseIdleConnections() {
	if b, ok := f.base.(interface{ CloseIdleConnections() }); ok {
		b.CloseIdleConnections()
	}
}

// redirectError reports a redirect that the client does not follow.
type redirectError struct{ from, to, why string }

func (e *redirectError) Error() string {
	return fmt.Sprintf("%s redirects to %s, which is not followed: %s", e.from, e.to, e.why)
}

// redirectTo returns the URL that an answer redirects its request to, nil if it
// is not such a redirect, and an error if the client must not follow it.
func redirectTo(req *http.Request, resp *http.Response, hop int) (*url.URL, error) {
	if resp.StatusCode < 300 || resp.StatusCode > 399 || req.Method != http.MethodGet && req.Method != http.MethodHead {
		return nil, nil
	}
	switch resp.StatusCode {
	case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
	default:
		return nil, nil
	}
	location := resp.Header.Get("Location")
	if location == "" {
		return nil, nil
	}
	if region := resp.Header.Get("X-Amz-Bucket-Region"); region != "" && region != scopeOf(req.Header.Get("Authorization")).region {
		return nil, nil // the bucket is in another region, which learn stores
	}
	refuse := func(why string) (*url.URL, error) {
		return nil, &redirectError{from: endpointOf(req.URL), to: httprange.RedactURL(location), why: why}
	}
	to, err := req.URL.Parse(location)
	switch {
	case err != nil || to.Scheme != "http" && to.Scheme != "https" || to.Host == "":
		return refuse("that is not a URL of http or https")
	case to.User != nil:
		return refuse("it names a user")
	case hop > maxHops:
		return refuse(fmt.Sprintf("the request has been redirected %d times", maxHops))
	case req.URL.Scheme == "https" && to.Scheme != "https":
		return refuse("it would leave TLS")
	case to.Scheme == "http" && !isLoopback(to.Hostname()) && req.Header.Get("X-Amz-Server-Side-Encryption-Customer-Key") != "":
		return refuse("the customer key would cross the network unencrypted")
	case reserved(to.Hostname()) && !reserved(req.URL.Hostname()):
		return refuse("that address belongs to the machine itself; name the store as the endpoint if it is meant")
	}
	to.Fragment = ""
	return to, nil
}

// reserved reports whether a host is this machine, or a link-local address as
// metadata services have. A store on another machine must not redirect requests
// to such a host.
func reserved(host string) bool {
	if isLoopback(host) {
		return true
	}
	a, err := netip.ParseAddr(host)
	return err == nil && (a.IsLinkLocalUnicast() || a.IsLoopback() || a.IsUnspecified() || a.Unmap().IsLinkLocalUnicast() || a.Unmap().IsLoopback())
}

// requestFor returns a copy of a request for another URL, signed for its host.
func (f *follower) requestFor(req *http.Request, to *url.URL) (*http.Request, error) {
	next := req.Clone(req.Context())
	next.URL, next.Host = to, ""
	scope := scopeOf(req.Header.Get("Authorization"))
	for _, name := range []string{"Authorization", "X-Amz-Date", "X-Amz-Security-Token", "X-Amz-S3session-Token"} {
		next.Header.Del(name)
	}
	switch {
	case req.Header.Get("Authorization") == "", to.Query().Has("X-Amz-Signature"):
		return next, nil // anonymous, or the new URL carries its own signature
	case scope.region == "":
		return nil, &redirectError{from: endpointOf(req.URL), to: endpointOf(to), why: "this kind of signature can't be made for another host"}
	}
	payload := req.Header.Get("X-Amz-Content-Sha256")
	if payload == "" {
		payload = unsigned
	}
	return next, f.c.signPlain(req.Context(), next, payload, scope.service, scope.region)
}

// scope is the region and service that a signature of version 4 is valid for.
type scope struct{ region, service string }

// scopeOf reads the scope of an Authorization header: "AWS4-HMAC-SHA256
// Credential=KEY/DATE/REGION/SERVICE/aws4_request, ...".
func scopeOf(authorization string) scope {
	rest, ok := strings.CutPrefix(authorization, "AWS4-HMAC-SHA256 Credential=")
	if !ok {
		return scope{}
	}
	credential, _, _ := strings.Cut(rest, ",")
	parts := strings.Split(strings.TrimSpace(credential), "/")
	if n := len(parts); n >= 5 && parts[n-1] == "aws4_request" {
		return scope{region: parts[n-3], service: parts[n-2]}
	}
	return scope{}
}
