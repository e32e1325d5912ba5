package s3

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/penstock/penstock/internal/ranges"
	"github.com/penstock/penstock/internal/testorigin"
)

// TestBlameOf checks which of the SDK's errors count as temporary. Servers with
// the matching answers cause them.
func TestBlameOf(t *testing.T) {
	const stsError = `<ErrorResponse><Error><Type>Sender</Type><Code>%s</Code><Message>says so</Message></Error><RequestId>r</RequestId></ErrorResponse>`
	role := func(t *testing.T, url string) {
		t.Helper()
		file := filepath.Join(t.TempDir(), "config")
		rewrite(t, file, "[default]\nregion = us-east-1\nrole_arn = arn:aws:iam::1:role/r\nsource_profile = base\n[profile base]\naws_access_key_id = A\naws_secret_access_key = hunter2\n")
		t.Setenv("AWS_CONFIG_FILE", file)
		t.Setenv("AWS_ENDPOINT_URL_STS", url)
	}
	web := func(t *testing.T, url string) {
		t.Helper()
		file := filepath.Join(t.TempDir(), "token")
		rewrite(t, file, "hunter2")
		t.Setenv("AWS_WEB_IDENTITY_TOKEN_FILE", file)
		t.Setenv("AWS_ROLE_ARN", "arn:aws:iam::1:role/r")
		t.Setenv("AWS_ENDPOINT_URL_STS", url)
	}
	container := func(t *testing.T, url string) { t.Helper(); t.Setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", url+"/x") }
	metadata := func(t *testing.T, url string) {
		t.Helper()
		t.Setenv("AWS_EC2_METADATA_DISABLED", "false")
		t.Setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", url)
	}
	for _, tc := range []struct {
		name   string
		setup  func(t *testing.T, url string)
		status int
		body   string
		want   blame
		kind   ranges.FaultKind
		text   string
	}{
		{"role, throttled", role, 400, fmt.Sprintf(stsError, "Throttling"), blamePassing, ranges.Retryable, "Throttling: says so"},
		{"role, away", role, 503, "", blamePassing, ranges.Retryable, "by the keys of profile \"default\": HTTP 503 (asking again"},
		{"role, refused", role, 403, fmt.Sprintf(stsError, "AccessDenied"), blameRefused, ranges.Denied, "AccessDenied: says so"},
		{"role, no server", role, 0, "", blamePassing, ranges.Retryable, "connection refused"},
		{"web identity, throttled", web, 400, fmt.Sprintf(stsError, "Throttling"), blamePassing, ranges.Retryable, "Throttling: says so"},
		{"web identity, the issuer does not answer", web, 400, fmt.Sprintf(stsError, "IDPCommunicationError"), blamePassing, ranges.Retryable, "IDPCommunicationError"},
		{"web identity, expired token", web, 400, fmt.Sprintf(stsError, "ExpiredTokenException"), blameRefused, ranges.Denied, "ExpiredTokenException: says so"},
		{"container, busy", container, 500, `{"code":"Busy","message":"says so"}`, blamePassing, ranges.Retryable, "says so"},
		{"container, slow down", container, 429, `{"code":"Slow","message":"says so"}`, blamePassing, ranges.Retryable, "says so"},
		{"container, no", container, 404, `{"code":"NotFound","message":"no such role"}`, blameRefused, ranges.Denied, "no such role"},
		{"container, no server", container, 0, "", blamePassing, ranges.Retryable, "connection refused"},
		{"metadata, no role", metadata, 404, "", blameMissing, ranges.Denied, "no credentials found: tried"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			isolate(t)
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Connection", "close")
				if strings.HasPrefix(tc.body, "{") {
					w.Header().Set("Content-Type", "application/json")
				}
				if tc.status == 404 && strings.HasSuffix(r.URL.Path, "/api/token") {
					w.Header().Set("X-Aws-Ec2-Metadata-Token-Ttl-Seconds", "21600")
					fmt.Fprint(w, "token")
					return
				}
				w.WriteHeader(tc.status)
				fmt.Fprint(w, tc.body)
			}))
			defer srv.Close()
			url := srv.URL
			if tc.status == 0 {
				srv.Close()
			}
			t.Setenv("AWS_MAX_ATTEMPTS", "1")
			tc.setup(t, url)
			c, err := New(t.Context(), Options{Endpoint: "http://127.0.0.1:1"})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			_, err = c.credentials.chain.fetch(t.Context())
			if got := blameOf(err); got != tc.want {
				t.Errorf("blame %d, want %d: %v", got, tc.want, err)
			}
			_, err = c.credentials.Retrieve(t.Context())
			if got := classifyTransport(err); got != tc.kind {
				t.Errorf("%v, want %v: %v", got, tc.kind, err)
			}
			wantText(t, err, tc.text)
			if strings.Contains(err.Error(), "hunter2") {
				t.Errorf("%v has a secret", err)
			}
		})
	}
}

// A token service throttles its first calls. The client asks it again, and the
// request that needs the keys succeeds.
func TestThrottledTokenService(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for back-off twice: about 2 s")
	}
	origin := start(t, testorigin.Options{Credentials: []testorigin.Credential{{AccessKey: "ASIAROLE", SecretKey: "s", SessionToken: "t"}}})
	if err := origin.Put("data", "k", []byte("bytes")); err != nil {
		t.Fatal(err)
	}
	var calls atomic.Int64
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Connection", "close")
		if calls.Add(1) < 3 {
			w.WriteHeader(http.StatusBadRequest)
			fmt.Fprint(w, `<ErrorResponse><Error><Code>Throttling</Code><Message>Rate exceeded</Message></Error></ErrorResponse>`)
			return
		}
		fmt.Fprintf(w, `<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleWithWebIdentityResult><Credentials>`+
			`<AccessKeyId>ASIAROLE</AccessKeyId><SecretAccessKey>s</SecretAccessKey><SessionToken>t</SessionToken><Expiration>%s</Expiration>`+
			`</Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>`, time.Now().Add(time.Hour).UTC().Format(time.RFC3339))
	}))
	defer srv.Close()
	file := filepath.Join(t.TempDir(), "token")
	rewrite(t, file, "jwt")
	t.Setenv("AWS_WEB_IDENTITY_TOKEN_FILE", file)
	t.Setenv("AWS_ROLE_ARN", "arn:aws:iam::1:role/r")
	t.Setenv("AWS_ENDPOINT_URL_STS", srv.URL)
	t.Setenv("AWS_MAX_ATTEMPTS", "1")
	c, err := New(t.Context(), Options{Endpoint: origin.URL()})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Head(t.Context(), "data", "k"); err != nil || calls.Load() != 3 {
		t.Errorf("%v after %d calls", err, calls.Load())
	}
}
