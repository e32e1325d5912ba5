package s3

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/smithy-go"

	"github.com/penstock/penstock/internal/ranges"
	"github.com/penstock/penstock/internal/testorigin"
)

// tokens1h is a token service whose keys are valid for an hour.
type tokens1h struct {
	calls atomic.Int64
	fail  func() error // failure of the service, or nil
}

func (s *tokens1h) Retrieve(context.Context) (aws.Credentials, error) {
	s.calls.Add(1)
	if s.fail != nil {
		if err := s.fail(); err != nil {
			return aws.Credentials{}, err
		}
	}
	return aws.Credentials{AccessKeyID: "AKIA", SecretAccessKey: "secret", CanExpire: true, Expires: time.Now().Add(time.Hour)}, nil
}

var throttled = &smithy.GenericAPIError{Code: "Throttling", Message: "Rate exceeded"}

// The token service is down for ten minutes around a refresh. A request every
// second, for three hours of fake time, succeeds without waiting.
func TestOutageOfTheTokenService(t *testing.T) {
	for _, from := range []time.Duration{40 * time.Minute, 44 * time.Minute, 48 * time.Minute, 50 * time.Minute} {
		synctest.Test(t, func(t *testing.T) {
			began := time.Now()
			sts := &tokens1h{fail: func() error {
				if d := time.Since(began); d >= from && d < from+10*time.Minute {
					time.Sleep(20 * time.Second) // it does not answer
					return throttled
				}
				return nil
			}}
			s := newCredentialSource(chainOf(aws.Config{}, Options{Credentials: sts}, nil, nil), nil, slog.New(slog.DiscardHandler))
			defer s.close()
			for time.Since(began) < 3*time.Hour {
				at := time.Now()
				keys, err := s.Retrieve(t.Context())
				if err != nil || !keys.Expires.After(time.Now()) || time.Since(at) != 0 {
					t.Fatalf("after %v: keys until %v, %v, waited %v", at.Sub(began), keys.Expires.Sub(at), err, time.Since(at))
				}
				time.Sleep(time.Second)
				synctest.Wait()
			}
			if n := sts.calls.Load(); n > 30 {
				t.Errorf("%d requests to the token service", n)
			}
		})
	}
}

// If keys have expired and the service is down, requests fail with a retryable
// error, and succeed when the service is back. The service gets few requests.
func TestLongOutageOfTheTokenService(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		down := func() bool { d := time.Since(began); return d >= 30*time.Minute && d < 90*time.Minute }
		sts := &tokens1h{fail: func() error {
			if down() {
				return throttled
			}
			return nil
		}}
		s := newCredentialSource(chainOf(aws.Config{}, Options{Credentials: sts}, nil, nil), nil, slog.New(slog.DiscardHandler))
		defer s.close()
		failed, last := 0, time.Duration(0)
		for time.Since(began) < 2*time.Hour {
			_, err := s.Retrieve(t.Context())
			if err != nil {
				failed++
				last = time.Since(began)
				if classifyTransport(err) != ranges.Retryable || errors.Is(err, ErrNoCredentials) {
					t.Fatalf("%v is final", err)
				}
				wantText(t, err, "no valid credentials: the given credentials: Throttling: Rate exceeded (asking again in ")
			}
			time.Sleep(time.Second)
			synctest.Wait()
		}
		if failed < 29*60 || last > 91*time.Minute {
			t.Errorf("%d failures, the last after %v", failed, last)
		}
		if n := sts.calls.Load(); n > 250 {
			t.Errorf("%d requests to the token service in an outage of an hour", n)
		}
	})
}

// One refresh serves all waiting requests, and a request that gives up does not
// end it.
func TestRefreshIsShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sts := &tokens1h{fail: func() error { time.Sleep(10 * time.Second); return nil }}
		s := newCredentialSource(chainOf(aws.Config{}, Options{Credentials: sts}, nil, nil), nil, slog.New(slog.DiscardHandler))
		defer s.close()
		got := make(chan error, 101)
		for i := range 101 {
			ctx, cancel := context.WithCancel(t.Context())
			if i == 0 {
				time.AfterFunc(time.Second, cancel)
			}
			go func() {
				defer cancel()
				_, err := s.Retrieve(ctx)
				got <- err
			}()
		}
		if err := <-got; !errors.Is(err, context.Canceled) {
			t.Errorf("the request that gave up: %v", err)
		}
		for range 100 {
			if err := <-got; err != nil {
				t.Error(err)
			}
		}
		if n := sts.calls.Load(); n != 1 {
			t.Errorf("%d requests", n)
		}
	})
}

// Close ends a refresh that hangs.
func TestCloseEndsRefresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hang := aws.CredentialsProviderFunc(func(ctx context.Context) (aws.Credentials, error) {
			<-ctx.Done()
			return aws.Credentials{}, ctx.Err()
		})
		s := newCredentialSource(chainOf(aws.Config{}, Options{Credentials: hang}, nil, nil), nil, slog.New(slog.DiscardHandler))
		_, err := s.Retrieve(t.Context())
		wantText(t, err, "no answer within 1m0s")
		time.Sleep(time.Minute)
		done := make(chan error)
		go func() { _, err := s.Retrieve(t.Context()); done <- err }()
		synctest.Wait()
		s.close()
		if err := <-done; err == nil {
			t.Error("no error")
		}
	})
}

// writeShared writes a shared credentials file and points the environment at it.
func writeShared(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "credentials")
	rewrite(t, file, text)
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", file)
	return file
}

// rewrite replaces a file by a rename, as Kubernetes and the AWS tools do.
func rewrite(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file+".new", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		t.Fatal(err)
	}
}

func pair(id, secret, token string) string {
	s := "[default]\naws_access_key_id = " + id + "\naws_secret_access_key = " + secret + "\n"
	if token != "" {
		s += "aws_session_token = " + token + "\n"
	}
	return s
}

// A rewritten credentials file takes effect in a running client: at once when
// the service refuses the old keys with any code, and for each operation.
func TestSharedFileIsReadAgain(t *testing.T) {
	origin := start(t, testorigin.Options{
		Credentials: []testorigin.Credential{
			{AccessKey: "AKIAOLD", SecretKey: "old", SessionToken: "o"},
			{AccessKey: "AKIANEW", SecretKey: "new"},
		},
	})
	if err := origin.Put("data", "k", []byte("bytes")); err != nil {
		t.Fatal(err)
	}
	ops := map[string]func(c *Client) error{
		"head": func(c *Client) error { _, err := c.Head(t.Context(), "data", "k"); return err },
		"list": func(c *Client) error { _, err := collect(t.Context(), c, "data", ListOptions{}); return err },
		"get": func(c *Client) error {
			_, _, err := get(t.Context(), c.Source("data", "k", SourceOptions{}), ranges.Request{Len: 5})
			return err
		},
	}
	for name, op := range ops {
		for _, refusal := range []string{"ExpiredToken", "InvalidAccessKeyId", "SignatureDoesNotMatch"} {
			file := writeShared(t, pair("AKIAOLD", "old", "o"))
			c, err := New(t.Context(), Options{Endpoint: origin.URL()})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if err := op(c); err != nil {
				t.Errorf("%s: before: %v", name, err)
			}
			rewrite(t, file, pair("AKIANEW", "new", ""))
			faults(t, origin, "* nth=1 => status code=403 error="+refusal)
			if err := op(c); err != nil {
				t.Errorf("%s: after %s: %v", name, refusal, err)
			}
			faults(t, origin, "")
			keys, err := c.credentials.Retrieve(t.Context())
			if err != nil || keys.AccessKeyID != "AKIANEW" {
				t.Errorf("%s: after %s: key %s, %v", name, refusal, keys.AccessKeyID, err)
			}
		}
	}
}

// Without a refusal, requests check the file every ten seconds. A file that is
// broken for a while does no harm as long as the old keys are valid.
func TestSharedFileIsWatched(t *testing.T) {
	isolate(t)
	file := writeShared(t, pair("AKIAONE", "1", ""))
	synctest.Test(t, func(t *testing.T) {
		c, err := New(t.Context(), Options{Endpoint: "http://127.0.0.1:1"})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		now := func() string {
			time.Sleep(watchEvery)
			if _, err := c.credentials.Retrieve(t.Context()); err != nil { // notices
				return err.Error()
			}
			synctest.Wait()
			keys, err := c.credentials.Retrieve(t.Context())
			return fmt.Sprint(keys.AccessKeyID, " ", err)
		}
		for _, x := range []struct{ text, want string }{
			{pair("AKIAONE", "1", ""), "AKIAONE <nil>"},
			{pair("AKIATWO", "2", ""), "AKIATWO <nil>"},
			{"[default\nbroken", "AKIATWO <nil>"},
			{"[default]\n", "AKIATWO <nil>"},
			{pair("AKIATHREE", "2", ""), "AKIATHREE <nil>"},
			{pair("AKIATHREE", "4 4", ""), "AKIATHREE <nil>"},
			{pair("AKIAFOUR", "4", ""), "AKIAFOUR <nil>"},
		} {
			rewrite(t, file, x.text)
			_ = now() // an earlier failure may have set a wait
			time.Sleep(maxRefreshWait)
			if got := now(); got != x.want {
				t.Errorf("after %q: %s, want %s", x.text, got, x.want)
			}
		}
	})
}

// runHelper writes a configuration whose credential_process is a script.
func runHelper(t *testing.T, script string) string {
	t.Helper()
	isolate(t)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "helper"), []byte("#!/bin/sh\n"+script+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "config")
	if err := os.WriteFile(file, []byte("[profile lab]\ncredential_process = "+filepath.Join(dir, "helper")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("AWS_CONFIG_FILE", file)
	t.Setenv("AWS_PROFILE", "lab")
	return dir
}

// helperKeys is the output of a helper.
func helperKeys(life time.Duration) string {
	return fmt.Sprintf(`echo '{"Version":1,"AccessKeyId":%q,"SecretAccessKey":%q,"Expiration":%q}'`,
		testorigin.AccessKey, testorigin.SecretKey, time.Now().Add(life).UTC().Format(time.RFC3339))
}

// A helper that fails once is run again.
func TestHelperFailsOnce(t *testing.T) {
	origin := start(t, testorigin.Options{})
	if err := origin.Put("data", "k", []byte("bytes")); err != nil {
		t.Fatal(err)
	}
	runHelper(t, `n=$(cat "$0.n" 2>/dev/null || echo 0); echo $((n+1)) >"$0.n"
if [ $n = 0 ]; then echo "STS: Throttling" >&2; exit 3; fi
`+helperKeys(time.Hour))
	c, err := New(t.Context(), Options{Endpoint: origin.URL()})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, _, err = get(t.Context(), c.Source("data", "k", SourceOptions{}), ranges.Request{Len: 5})
	wantFault(t, err, ranges.Retryable, `no valid credentials: credential_process of profile "lab": exit status 3: it says "STS: Throttling" (asking again in 1s)`)
	var f *ranges.Fault
	if !errors.As(err, &f) || f.RetryAfter <= 0 || f.RetryAfter > firstRefreshWait {
		t.Errorf("retry after %v", f.RetryAfter)
	}
	if _, err := c.Head(t.Context(), "data", "k"); err != nil { // waits for the next run
		t.Error(err)
	}
}

// A helper that does not answer is killed with every process that it started.
func TestHelperTimesOut(t *testing.T) {
	dir := runHelper(t, `echo "waiting for the token" >&2; sleep 1000 & echo $! >"$0.pid"; wait`)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		_, err := helper(filepath.Join(dir, "helper")).Retrieve(ctx)
		done <- err
	}()
	pid := ""
	for pid == "" {
		b, _ := os.ReadFile(filepath.Join(dir, "helper.pid"))
		pid = strings.TrimSpace(string(b))
		runtime.Gosched()
	}
	cancel()
	err := <-done
	wantText(t, err, `ended, because it did not answer in time: it says "waiting for the token"`)
	if blameOf(err) != blameHelper {
		t.Errorf("blame %v", blameOf(err))
	}
	n, err := strconv.Atoi(pid)
	if err != nil {
		t.Fatal(err)
	}
	for !ended(n) { // or the test times out
		runtime.Gosched()
	}
}

// ended reports whether a process has ended; a killed one may wait for its parent.
func ended(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return true
	}
	_, state, _ := strings.Cut(string(b), ") ")
	return strings.HasPrefix(state, "Z") || strings.HasPrefix(state, "X")
}

// Fixed keys are not tried twice.
func TestWrongKeysAreSentOnce(t *testing.T) {
	origin := start(t, testorigin.Options{})
	writeShared(t, pair("AKIANOBODY", "x", ""))
	c, err := New(t.Context(), Options{Endpoint: origin.URL()})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, err = c.Head(t.Context(), "data", "k")
	wantText(t, err, "access denied")
	_, _, err = get(t.Context(), c.Source("data", "k", SourceOptions{}), ranges.Request{Len: 5})
	wantFault(t, err, ranges.Denied, "the access key is unknown here")
	if h, g := origin.Count("HeadObject", "data/k").Requests, origin.Count("GetObject", "data/k").Requests; h != 1 || g != 1 {
		t.Errorf("%d HEAD, %d GET, want 1 of each", h, g)
	}
}

// The message names the source of the keys and quotes its message.
func TestCredentialMessages(t *testing.T) {
	gone := filepath.Join(t.TempDir(), "token")
	for _, tc := range []struct {
		name  string
		setup func(t *testing.T)
		want  string
		not   string
	}{
		{name: "nothing", setup: func(*testing.T) {}, want: "no credentials found: tried the environment, shared profile, web identity"},
		{
			name: "helper fails", setup: func(t *testing.T) { runHelper(t, "echo \"vault is sealed\n\x1b[31mtry later\" >&2; exit 3") },
			want: `no valid credentials: credential_process of profile "lab": exit status 3: it says "vault is sealed \x1b[31mtry later"`,
		},
		{name: "helper prints nonsense", setup: func(t *testing.T) { runHelper(t, "echo hunter2") }, want: "its output is not the JSON of a credential_process", not: "hunter2"},
		{name: "helper prints half", setup: func(t *testing.T) { runHelper(t, `echo '{"Version":1,"AccessKeyId":"A"}'`) }, want: "missing SecretAccessKey in process output"},
		{
			name: "no helper", setup: func(t *testing.T) {
				dir := runHelper(t, "")
				os.Remove(filepath.Join(dir, "helper"))
			}, want: "the program is not there (exit status 127)",
		},
		{
			name: "no token file", setup: func(t *testing.T) {
				t.Setenv("AWS_WEB_IDENTITY_TOKEN_FILE", gone)
				t.Setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/reader")
			}, want: "no valid credentials: web identity of the environment (AWS_WEB_IDENTITY_TOKEN_FILE, AWS_ROLE_ARN): ",
		},
		{
			name: "single sign-on", setup: func(t *testing.T) {
				writeShared(t, "")
				file := filepath.Join(t.TempDir(), "config")
				rewrite(t, file, "[default]\nsso_start_url = https://x.example.com/start\nsso_region = eu-west-3\nsso_account_id = 123456789012\nsso_role_name = r\n")
				t.Setenv("AWS_CONFIG_FILE", file)
			}, want: `no valid credentials: single sign-on of profile "default" (renew it with aws sso login): `,
		},
		{
			name: "misspelt key", setup: func(t *testing.T) {
				writeShared(t, "[default]\naws_access_key_id = A\naws_secret_acces_key = hunter2\n")
			},
			want: `profile "default" has aws_access_key_id and no aws_secret_access_key: give both`, not: "hunter2",
		},
		{
			name: "misspelt keys", setup: func(t *testing.T) {
				writeShared(t, "[default]\naws_access_key = A\n")
			},
			want: `no credentials found: profile "default" has aws_access_key, which is not a setting: keys are aws_access_key_id and aws_secret_access_key; tried`,
		},
		{
			name: "empty secret in the environment", setup: func(t *testing.T) {
				t.Setenv("AWS_ACCESS_KEY_ID", "AKIA")
				t.Setenv("AWS_SECRET_ACCESS_KEY", "")
			}, want: "no credentials found: the environment has half a key pair: AWS_SECRET_ACCESS_KEY is not set",
		},
		{
			name: "line break in the environment", setup: func(t *testing.T) {
				t.Setenv("AWS_ACCESS_KEY_ID", "AKIA")
				t.Setenv("AWS_SECRET_ACCESS_KEY", "hunter2\n")
			}, want: "no valid credentials: the environment: AWS_SECRET_ACCESS_KEY ends with a line break: remove it", not: "hunter2",
		},
		{
			name: "white space in the file", setup: func(t *testing.T) { writeShared(t, pair("AKIA", "hunter2 AKIAOTHER", "")) },
			want: `no valid credentials: the keys of profile "default": aws_secret_access_key of profile "default" has white space in it`, not: "hunter2",
		},
		{
			name: "role over a static pair", setup: func(t *testing.T) {
				file := filepath.Join(t.TempDir(), "config")
				rewrite(t, file, "[default]\nrole_arn = arn:aws:iam::1:role/r\nsource_profile = base\n[profile base]\naws_access_key_id = A\naws_secret_access_key = hunter2\n")
				t.Setenv("AWS_CONFIG_FILE", file)
				t.Setenv("AWS_ENDPOINT_URL_STS", "http://127.0.0.1:1")
				t.Setenv("AWS_MAX_ATTEMPTS", "1")
			}, want: `no valid credentials: role arn:aws:iam::1:role/r of profile "default", by the keys of profile "default": POST http://127.0.0.1:1/: `, not: "hunter2",
		},
		{
			name: "container", setup: func(t *testing.T) {
				t.Setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://127.0.0.1:1/x?hunter2")
				t.Setenv("AWS_MAX_ATTEMPTS", "1")
			}, want: "no valid credentials: the container's credential endpoint (AWS_CONTAINER_CREDENTIALS_FULL_URI or _RELATIVE_URI): ", not: "hunter2",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			isolate(t)
			tc.setup(t)
			c, err := New(t.Context(), Options{Endpoint: "http://127.0.0.1:1", Retry: ranges.RetryPolicy{Attempts: -1}})
			if err != nil {
				wantText(t, err, tc.want)
				if strings.Contains(err.Error(), tc.not) {
					t.Errorf("%v has a secret", err)
				}
				return
			}
			defer c.Close()
			_, err = c.Head(t.Context(), "data", "k")
			wantText(t, err, tc.want)
			if tc.not != "" && strings.Contains(err.Error(), tc.not) {
				t.Errorf("%v has a secret", err)
			}
			_, _, err = get(t.Context(), c.Source("data", "k", SourceOptions{}), ranges.Request{Len: 5})
			wantText(t, err, tc.want)
		})
	}
}
