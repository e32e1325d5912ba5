package s3

import (
	"context"
	"math/rand/v2"
	"time"

	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/penstock/penstock/internal/ranges"
)

// Operations, as they appear in errors.
const (
	opGet         = "get"
	opHead        = "head"
	opHeadBucket  = "head bucket"
	opListBuckets = "list buckets"
	opList        = "list"
	opPut         = "put"
	opUpload      = "upload"
	opCopy        = "copy"
	opDelete      = "delete"
)

const (
	// firstBackoff and maxBackoff bound the wait before the second request and
	// before any, without the server's wish.
	firstBackoff = 200 * time.Millisecond
	maxBackoff   = 5 * time.Second
	// maxWish bounds what a server may ask for: people wait for these calls.
	maxWish = 30 * time.Second
)

// backoff returns the wait before attempt n (2 is the first repetition): half
// fixed, half by chance (r in [0, 1)), so that a crowd spreads out but nobody
// asks again at once. The server's wish is a lower bound.
func backoff(n int, wish time.Duration, r float64) time.Duration {
	d := maxBackoff
	if shift := n - 2; shift < 5 {
		d = min(firstBackoff<<shift, maxBackoff)
	}
	d = d/2 + time.Duration(r*float64(d/2))
	return max(d, min(wish, maxWish))
}

// call runs one SDK operation and repeats it as its failure allows. This is the
// only retry loop of the package; sources do not come here.
//
// f is called with a context and an option that every SDK call inside must get.
func (c *Client) call(ctx context.Context, op, bucket, key string, f func(context.Context, func(*awss3.Options)) error) error {
	taught, renewed := 0, false
	for attempt := 1; ; attempt++ {
		seen, region := &witness{}, c.region(bucket)
		err := f(context.WithValue(ctx, witnessKey{}, seen), func(so *awss3.Options) { so.Region = region })
		if err == nil {
			return nil
		}
		e := fromSDK(ctx, op, bucket, key, err, seen)
		if ctx.Err() != nil {
			return e
		}
		if taught < 2 && c.learn(e, region) { // the region and the clock
			taught++
			continue
		}
		if !renewed && c.mayRenew(e) {
			renewed = true
			continue
		}
		if attempt >= c.attempts || e.kind != ranges.Retryable && e.kind != ranges.Throttled {
			return e
		}
		wait := backoff(attempt+1, e.retryAfter, rand.Float64())
		c.log.Debug("s3: again", "op", op, "bucket", bucket, "key", key, "attempt", attempt, "wait", wait, "error", e)
		if err := sleep(ctx, wait); err != nil {
			e.Err = err
			e.Status, e.Code = 0, ""
			return e
		}
	}
}

// mayRenew reports whether new credentials could help, and sees to it that the
// next request gets them.
func (c *Client) mayRenew(e *Error) bool {
	if c.credentials == nil {
		return false
	}
	// HEAD has no body: an expired token is a bare 400.
	if !expired(e.Code) && (e.Status != 400 || e.Code != "") {
		return false
	}
	c.credentials.renew()
	return true
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
