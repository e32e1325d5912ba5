package s3

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/penstock/penstock/internal/ranges"
)

// Operations, as they appear in errors.
const (
	opGet    = "get"
	opHead   = "head"
	opList   = "list"
	opPut    = "put"
	opUpload = "upload"
	opCopy   = "copy"
	opDelete = "delete"
)

const (
	// slowWrite is how long a server may be silent after it has received a
	// body: the server may have to write gigabytes to several disks first.
	slowWrite = time.Minute
	// slowCopy is the same bound for requests that make the server copy an
	// object. S3 takes several minutes to copy a large one.
	slowCopy = 10 * time.Minute
)

// call runs one SDK operation and repeats it as long as its failure and the
// policy allow. It is the only retry loop of the package. Requests of sources do
// not pass through call, because the engine repeats them.
//
// f must pass its context and its option to every SDK call that it makes.
func (c *Client) call(ctx context.Context, op, bucket, key string, f func(context.Context, func(*awss3.Options)) error) error {
	if err := CheckBucket(bucket); err != nil {
		return &Error{Op: op, Bucket: bucket, Key: key, Err: err, kind: ranges.Permanent}
	}
	var history ranges.Retries
	begin := time.Now()
	taught, renewed, fresh := 0, false, false
	for attempt := 1; ; attempt++ {
		seen, region, start := &witness{fresh: fresh}, c.region(bucket), time.Since(begin)
		err := c.attempt(ctx, seen, func(ctx context.Context) error {
			return f(ctx, func(so *awss3.Options) { so.Region = region })
		})
		if err == nil {
			return nil
		}
		e := fromSDK(ctx, op, bucket, key, err, seen)
		if ctx.Err() != nil {
			return e
		}
		if taught < 2 && c.learn(e, region) { // at most the region and the clock
			taught++
			continue
		}
		if !renewed && c.mayRenew(e) {
			renewed = true
			continue
		}
		if e.kind != ranges.Retryable && e.kind != ranges.Throttled {
			return e
		}
		if errors.Is(e, ranges.ErrStalled) {
			// Other idle connections may have been cut off in the same way.
			c.client.CloseIdleConnections()
		}
		v := history.Next(c.retry, ranges.Failure{
			Err:   &ranges.Fault{Kind: e.kind, Status: e.Status, RetryAfter: e.retryAfter},
			Start: start, Now: time.Since(begin), Refused: 1, Rand: rand.Float64(),
		})
		if !v.Retry {
			return e
		}
		fresh = v.Fresh
		c.logRetry(e, attempt, v.After)
		if err := sleep(ctx, v.After); err != nil {
			e.Err = err
			e.Status, e.Code = 0, ""
			return e
		}
	}
}

// attempt runs f once under a watch.
func (c *Client) attempt(ctx context.Context, seen *witness, f func(context.Context) error) error {
	watched, w := newWatch(ctx, c.retry)
	defer w.stop()
	seen.watch = w
	err := f(context.WithValue(watched, witnessKey{}, seen))
	if err != nil && ctx.Err() == nil && watched.Err() != nil {
		cause := context.Cause(watched)
		if seen.sent == 0 {
			cause = fmt.Errorf("fetching credentials: %w", cause)
		}
		seen.failure = &Error{Err: cause, Endpoint: seen.endpoint, kind: ranges.Retryable}
	}
	return err
}

// logRetry logs a retry: each one at debug level, and warnings at a limited
// rate.
func (c *Client) logRetry(e *Error, attempt int, wait time.Duration) {
	c.log.Debug("s3 request retried", "op", e.Op, "bucket", e.Bucket, "key", e.Key, "attempt", attempt, "wait", wait, "err", e)
	c.retryMu.Lock()
	others, due := c.retryLog.Due(time.Since(c.made))
	c.retryMu.Unlock()
	if due {
		c.log.Warn("s3 request failed, retrying", "op", e.Op, "bucket", e.Bucket, "key", e.Key, "attempt", attempt, "wait", wait, "others", others, "err", e)
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}

// watch ends one attempt that makes too little progress, by the rules of
// ranges.RetryPolicy. Bytes of the request's body are progress as well.
type watch struct {
	begin  time.Time
	cancel context.CancelCauseFunc
	last   atomic.Int64 // time of the last byte, in nanoseconds since begin
	got    atomic.Int64 // bytes in both directions

	mu       sync.Mutex // guards the fields below; leaf
	policy   ranges.RetryPolicy
	progress ranges.Progress
	timer    *time.Timer // nil if nothing is bounded or the attempt has ended
}

// newWatch returns the context of an attempt and its watch. Until the request
// is sent, the attempt may take as long as Outage, because a source of
// credentials may be slow.
func newWatch(ctx context.Context, p ranges.RetryPolicy) (context.Context, *watch) {
	ctx, cancel := context.WithCancelCause(ctx)
	w := &watch{begin: time.Now(), cancel: cancel, policy: p}
	if p.Stall > 0 {
		w.mu.Lock() // because look may run before AfterFunc returns
		w.policy.Stall = max(p.Stall, p.Outage)
		w.timer = time.AfterFunc(w.policy.Stall, w.look)
		w.mu.Unlock()
	}
	return ctx, w
}

// sent records that the request was sent. From then on the server may be silent
// for stall.
func (w *watch) sent(stall time.Duration) {
	w.touch(0)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.timer != nil {
		w.policy.Stall = stall
		w.progress = ranges.Progress{From: time.Since(w.begin), Got: w.got.Load()}
		w.timer.Reset(stall)
	}
}

// touch counts n bytes as progress.
func (w *watch) touch(n int) {
	w.got.Add(int64(n))
	w.last.Store(int64(time.Since(w.begin)))
}

// look ends the attempt if it made too little progress. The timer calls it.
func (w *watch) look() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.timer == nil {
		return
	}
	now, last := time.Since(w.begin), time.Duration(w.last.Load())
	if err := w.policy.CheckProgress(&w.progress, now, last, w.got.Load()); err != nil {
		w.timer = nil
		w.cancel(fmt.Errorf("%w (%v)", err, w.policy.Stall))
		return
	}
	w.timer.Reset(last + w.policy.Stall - now)
}

// stop ends the watch and releases the attempt's context.
func (w *watch) stop() {
	w.mu.Lock()
	if w.timer != nil {
		w.timer.Stop()
		w.timer = nil
	}
	w.mu.Unlock()
	w.cancel(nil)
}

// silence is how long a server may be silent after it has received req.
func silence(p ranges.RetryPolicy, req *http.Request) time.Duration {
	switch {
	case req.Method == http.MethodGet, req.Method == http.MethodHead:
		return p.Stall
	case req.Method == http.MethodPost, req.Header.Get("X-Amz-Copy-Source") != "":
		return max(p.Stall, slowCopy)
	}
	return max(p.Stall, slowWrite)
}

// watchedBody counts the bytes that pass in a watch.
type watchedBody struct {
	io.ReadCloser
	w *watch
}

func (b watchedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.w.touch(n)
	return n, err
}
