package s3

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/penstock/penstock/internal/ranges"
)

const onePage = `<ListBucketResult><Contents><Key>k</Key><Size>3</Size></Contents></ListBucketResult>`

// operations has one operation of each kind that uses call.
var operations = map[string]func(context.Context, *Client) error{
	"HEAD": func(ctx context.Context, c *Client) error { _, err := c.Head(ctx, "b", "k"); return err },
	"LIST": func(ctx context.Context, c *Client) error {
		for _, err := range c.List(ctx, "b", ListOptions{}) {
			return err
		}
		return errors.New("nothing listed")
	},
	"PUT": func(ctx context.Context, c *Client) error {
		_, err := c.Put(ctx, "b", "k", strings.NewReader("abc"), PutOptions{})
		return err
	},
}

// fine answers like a store without a fault.
func fine(r *http.Request) (*http.Response, error) {
	if r.Body != nil {
		_, _ = io.Copy(io.Discard, r.Body)
	}
	body := ""
	if r.Method == http.MethodGet {
		body = onePage
	}
	return answer(r, 200, http.Header{"Etag": {`"e"`}, "Content-Type": {"application/xml"}}, body), nil
}

// silent never answers.
func silent(r *http.Request) (*http.Response, error) {
	<-r.Context().Done()
	return nil, context.Cause(r.Context())
}

// outages are the ways in which a store can fail.
var outages = map[string]roundTrip{
	"refused": func(*http.Request) (*http.Response, error) { return nil, syscall.ECONNREFUSED },
	"reset":   func(*http.Request) (*http.Response, error) { return nil, syscall.ECONNRESET },
	"503":     func(r *http.Request) (*http.Response, error) { return answer(r, 503, nil, ""), nil },
	"silence": silent,
	"silent body": func(r *http.Request) (*http.Response, error) {
		resp := answer(r, 200, http.Header{"Content-Type": {"application/xml"}}, "")
		if r.Method != http.MethodGet {
			return silent(r)
		}
		resp.Body, resp.ContentLength = io.NopCloser(quietReader{r.Context()}), 100
		return resp, nil
	},
}

// quietReader blocks until its request ends.
type quietReader struct{ ctx context.Context }

func (q quietReader) Read([]byte) (int, error) { <-q.ctx.Done(); return 0, context.Cause(q.ctx) }

// The test checks the figures of docs/configuration.md. Every operation survives
// an outage of a minute. If the outage does not end, reads fail after 60 to 70 s,
// and writes, whose answers may take a minute, after at most 120 s.
func TestOutages(t *testing.T) {
	isolate(t)
	for kind, away := range outages {
		for name, op := range operations {
			t.Run(kind+" "+name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					var log bytes.Buffer
					c, err := New(t.Context(), Options{
						Endpoint: "http://127.0.0.1:1", Credentials: StaticCredentials("a", "b", ""),
						Log: slog.New(slog.NewTextHandler(&log, nil)),
					})
					if err != nil {
						t.Fatal(err)
					}
					start := time.Now()
					answerWith(c, func(r *http.Request) (*http.Response, error) {
						if time.Since(start) < ranges.DefaultOutage {
							return away(r)
						}
						return fine(r)
					})
					if err := op(t.Context(), c); err != nil {
						t.Errorf("an outage of %v was not survived: %v after %v", ranges.DefaultOutage, err, time.Since(start))
					}
					if n := strings.Count(log.String(), "level=WARN"); n < 1 || n > 8 {
						t.Errorf("%d warnings:\n%s", n, &log)
					}
					start = time.Now()
					answerWith(c, away)
					err = op(t.Context(), c)
					most := ranges.DefaultOutage + ranges.DefaultStall + time.Second
					if name == "PUT" {
						most = ranges.DefaultOutage + slowWrite + time.Second
					}
					if took := time.Since(start); err == nil || took < ranges.DefaultOutage || took > most {
						t.Errorf("without an end: %v after %v", err, took)
					}
				})
			})
		}
	}
}

// An attempt is bounded by silence and not by time, so a slow listing that
// makes progress is read to its end.
func TestSlowListingIsRead(t *testing.T) {
	isolate(t)
	synctest.Test(t, func(t *testing.T) {
		c, err := New(t.Context(), Options{Endpoint: "http://127.0.0.1:1", Credentials: StaticCredentials("a", "b", "")})
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		pad := strings.Repeat(" ", 64<<10)
		answerWith(c, func(r *http.Request) (*http.Response, error) {
			n++
			resp := answer(r, 200, http.Header{"Content-Type": {"application/xml"}}, "")
			resp.Body, resp.ContentLength = io.NopCloser(&slowReader{r: strings.NewReader(onePage + pad + pad)}), -1
			return resp, nil
		})
		start := time.Now()
		if err := operations["LIST"](t.Context(), c); err != nil || n != 1 || time.Since(start) < 20*time.Second {
			t.Errorf("%v after %d requests and %v", err, n, time.Since(start))
		}
	})
}

// slowReader returns 4 KiB a second.
type slowReader struct{ r io.Reader }

func (s *slowReader) Read(p []byte) (int, error) {
	time.Sleep(time.Second) // fake time
	return s.r.Read(p[:min(len(p), 4<<10)])
}

// After a stall the next attempt takes a new connection, and the idle ones are
// closed, because they may be cut off as well.
func TestStallTakesNewConnection(t *testing.T) {
	isolate(t)
	synctest.Test(t, func(t *testing.T) {
		c, err := New(t.Context(), Options{Endpoint: "http://127.0.0.1:1", Credentials: StaticCredentials("a", "b", "")})
		if err != nil {
			t.Fatal(err)
		}
		c.client.Transport, c.fresh.Transport = roundTrip(silent), roundTrip(fine)
		start := time.Now()
		if _, err := c.Head(t.Context(), "b", "k"); err != nil || time.Since(start) > ranges.DefaultStall+time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
	})
}

// The caller's context ends a waiting attempt, and the pause before the next
// one.
func TestOutageIsInterruptible(t *testing.T) {
	isolate(t)
	for kind, away := range outages {
		synctest.Test(t, func(t *testing.T) {
			c, err := New(t.Context(), Options{Endpoint: "http://127.0.0.1:1", Credentials: StaticCredentials("a", "b", "")})
			if err != nil {
				t.Fatal(err)
			}
			answerWith(c, away)
			ctx, cancel := context.WithTimeout(t.Context(), 7*time.Second)
			defer cancel()
			start := time.Now()
			if _, err := c.Head(ctx, "b", "k"); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != 7*time.Second {
				t.Errorf("%s: %v after %v", kind, err, time.Since(start))
			}
		})
	}
}

// A source of credentials that hangs is bounded as well, and the error names
// it.
func TestHangingCredentials(t *testing.T) {
	isolate(t)
	synctest.Test(t, func(t *testing.T) {
		over := make(chan struct{})
		defer close(over)
		c, err := New(t.Context(), Options{
			Endpoint: "http://127.0.0.1:1", Retry: ranges.RetryPolicy{Attempts: -1},
			Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
				<-over
				return aws.Credentials{}, errors.New("over")
			}),
		})
		if err != nil {
			t.Fatal(err)
		}
		answerWith(c, fine)
		start := time.Now()
		_, err = c.Head(t.Context(), "b", "k")
		wantText(t, err, "credentials")
		if took := time.Since(start); took > ranges.DefaultOutage {
			t.Errorf("after %v", took)
		}
	})
}
