package s3

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/penstock/penstock/internal/ranges"
	"github.com/penstock/penstock/internal/testorigin"
)

func TestCredentialsExpire(t *testing.T) {
	past := time.Now().Add(-time.Hour)
	origin := start(t, testorigin.Options{Credentials: []testorigin.Credential{
		{AccessKey: "AKIAOLD", SecretKey: "old", SessionToken: "old", Expires: past},
		{AccessKey: "AKIANEW", SecretKey: "new", SessionToken: "new"},
	}})
	if err := origin.Put("data", "k", []byte("bytes")); err != nil {
		t.Fatal(err)
	}
	cred := func(which string) aws.Credentials {
		return aws.Credentials{AccessKeyID: "AKIA" + strings.ToUpper(which), SecretAccessKey: which, SessionToken: which}
	}
	for _, op := range []string{"get", "head", "list"} {
		n := 0
		c := connect(t, origin, Options{Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			if n++; n == 1 {
				return cred("old"), nil
			}
			return cred("new"), nil
		})})
		var err error
		switch op {
		case "get":
			_, _, err = get(t.Context(), c.Source("data", "k", SourceOptions{}), ranges.Request{Len: 5})
		case "head":
			_, err = c.Head(t.Context(), "data", "k")
		case "list":
			for _, err = range c.List(t.Context(), "data", ListOptions{}) {
				break
			}
		}
		if err != nil || n != 2 {
			t.Errorf("%s: %v after fetching credentials %d times, want success after 2", op, err, n)
		}
	}
	// If the keys stay expired, there is one more request, and then a fault
	// that the engine may retry.
	c := connect(t, origin, Options{Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) { return cred("old"), nil })})
	before := origin.Count("GetObject", "data/k").Requests
	_, _, err := get(t.Context(), c.Source("data", "k", SourceOptions{}), ranges.Request{Len: 5})
	wantFault(t, err, ranges.Retryable, "token has expired: renew")
	if n := origin.Count("GetObject", "data/k").Requests - before; n != 2 {
		t.Errorf("%d requests, want 2", n)
	}
}

func TestWrongCredentials(t *testing.T) {
	origin := start(t, testorigin.Options{})
	if err := origin.Put("data", "k", []byte("bytes")); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		o    Options
		text string
	}{
		{Options{Credentials: StaticCredentials("AKIANOBODY", "x", "")}, "access key is unknown here: check AWS_ACCESS_KEY_ID"},
		{Options{Credentials: StaticCredentials(testorigin.AccessKey, "wrong", "")}, "wrong secret key: check AWS_SECRET_ACCESS_KEY"},
		{Options{Anonymous: true}, "access denied"},
	} {
		c := connect(t, origin, tc.o)
		_, _, err := get(t.Context(), c.Source("data", "k", SourceOptions{}), ranges.Request{Len: 5})
		wantFault(t, err, ranges.Denied, tc.text)
		for _, err := range c.List(t.Context(), "data", ListOptions{}) {
			wantText(t, err, tc.text)
			if !errors.Is(err, ErrDenied) {
				t.Errorf("%v is not ErrDenied", err)
			}
		}
	}
	// Without credentials.
	c, err := New(t.Context(), Options{Endpoint: origin.URL()})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, _, err = get(t.Context(), c.Source("data", "k", SourceOptions{}), ranges.Request{Len: 5})
	wantFault(t, err, ranges.Denied, "no credentials found: tried the environment")
	_, err = c.Head(t.Context(), "data", "k")
	wantText(t, err, "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
	if !errors.Is(err, ErrNoCredentials) || !errors.Is(err, ErrDenied) {
		t.Errorf("sentinels of %v", err)
	}
}

// The client finds its keys where the AWS tools do, for example in the
// environment and at the container's endpoint.
func TestCredentialChain(t *testing.T) {
	origin := start(t, testorigin.Options{})
	if err := origin.Put("data", "k", []byte("bytes")); err != nil {
		t.Fatal(err)
	}
	check := func(what string) {
		t.Helper()
		c, err := New(t.Context(), Options{Endpoint: origin.URL()})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := c.Head(t.Context(), "data", "k"); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"AccessKeyId":%q,"SecretAccessKey":%q,"Token":"","Expiration":%q}`,
			testorigin.AccessKey, testorigin.SecretKey, time.Now().Add(time.Hour).UTC().Format(time.RFC3339))
	}))
	defer server.Close()
	t.Setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", server.URL)
	check("container")
	http.DefaultClient.CloseIdleConnections()
	os.Unsetenv("AWS_CONTAINER_CREDENTIALS_FULL_URI")
	t.Setenv("AWS_ACCESS_KEY_ID", testorigin.AccessKey)
	t.Setenv("AWS_SECRET_ACCESS_KEY", testorigin.SecretKey)
	check("environment")
}

func TestAnonymous(t *testing.T) {
	origin := start(t, testorigin.Options{Anonymous: true})
	if err := origin.Put("data", "k", []byte("bytes")); err != nil {
		t.Fatal(err)
	}
	c := connect(t, origin, Options{Anonymous: true})
	if got, _, err := get(t.Context(), c.Source("data", "k", SourceOptions{}), ranges.Request{Len: 5}); err != nil || string(got) != "bytes" {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := c.Head(t.Context(), "data", "k"); err != nil {
		t.Error(err)
	}
}

func TestRequesterPaysAndOwner(t *testing.T) {
	var seen []http.Header
	origin := start(t, testorigin.Options{Tap: func(e testorigin.Event) {
		if !e.Done {
			seen = append(seen, e.Header)
		}
	}})
	if err := origin.CreateBucket("paid", testorigin.BucketOptions{RequesterPays: true, Owner: "999988887777"}); err != nil {
		t.Fatal(err)
	}
	if err := origin.Put("paid", "k", []byte("bytes")); err != nil {
		t.Fatal(err)
	}
	all := func(c *Client) []error {
		_, _, e1 := get(t.Context(), c.Source("paid", "k", SourceOptions{}), ranges.Request{Len: 5})
		_, e2 := c.Head(t.Context(), "paid", "k")
		var e3 error
		for _, e3 = range c.List(t.Context(), "paid", ListOptions{}) {
			break
		}
		_, e4 := c.Put(t.Context(), "paid", "p", strings.NewReader("x"), PutOptions{})
		return []error{e1, e2, e3, e4, c.Delete(t.Context(), "paid", "p")}
	}
	for i, err := range all(connect(t, origin, Options{RequesterPays: true, ExpectedBucketOwner: "999988887777"})) {
		if err != nil {
			t.Errorf("operation %d: %v", i, err)
		}
	}
	for _, h := range seen {
		if got := h["X-Amz-Request-Payer"]; !slices.Equal(got, []string{"requester"}) {
			t.Errorf("payer header %q in %v", got, h)
		}
	}
	for i, err := range all(connect(t, origin, Options{})) {
		if !errors.Is(err, ErrDenied) {
			t.Errorf("operation %d without payer: %v", i, err)
		}
	}
	for i, err := range all(connect(t, origin, Options{RequesterPays: true, ExpectedBucketOwner: "000000000000"})) {
		if !errors.Is(err, ErrDenied) {
			t.Errorf("operation %d with another owner: %v", i, err)
		}
	}
}
