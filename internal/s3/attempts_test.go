package s3

import (
	"io"
	"strings"
	"testing"
	"time"

	"github.com/penstock/penstock/internal/budget"
	"github.com/penstock/penstock/internal/ranges"
	"github.com/penstock/penstock/internal/testorigin"
)

// TestOneRetryLayer counts the requests of operations that always fail. With a
// policy of three attempts each operation makes three requests. A second layer
// of retries (in the SDK, in the transport, or in the client below the engine)
// would make more.
func TestOneRetryLayer(t *testing.T) {
	policy := ranges.RetryPolicy{Attempts: 3, Base: time.Microsecond, Max: time.Microsecond}
	engineGet := func(c *Client, viaSDK bool) error {
		engine, err := ranges.New(ranges.Options{Budget: budget.New(16 << 20), Retry: policy, Hedge: ranges.HedgePolicy{Quantile: -1}})
		if err != nil {
			t.Fatal(err)
		}
		defer engine.Close()
		if viaSDK {
			target, err := c.target(t.Context(), "data")
			if err != nil {
				t.Fatal(err)
			}
			slow := *target
			slow.plain = false
			c.targets[targetID{DefaultRegion, "data"}] = &slow
		}
		s := engine.Object(c.Source("data", "k", SourceOptions{}), c.Spec("data", "k", ObjectInfo{})).Stream(t.Context(), 0, -1, ranges.StreamOptions{})
		defer s.Close()
		_, err = io.ReadAll(s)
		return err
	}
	for _, tt := range []struct {
		name, op, key string
		do            func(*Client) error
	}{
		{"GET by the engine", "GetObject", "data/k", func(c *Client) error { return engineGet(c, false) }},
		{"GET by the engine and the SDK", "GetObject", "data/k", func(c *Client) error { return engineGet(c, true) }},
		{"HEAD", "HeadObject", "data/k", func(c *Client) error { _, err := c.Head(t.Context(), "data", "k"); return err }},
		{"LIST", "ListObjectsV2", "data", func(c *Client) error { _, err := collect(t.Context(), c, "data", ListOptions{}); return err }},
		{"PUT", "PutObject", "data/k", func(c *Client) error {
			_, err := c.Put(t.Context(), "data", "k", strings.NewReader("x"), PutOptions{})
			return err
		}},
	} {
		origin := start(t, testorigin.Options{})
		if err := origin.Put("data", "k", []byte("bytes")); err != nil {
			t.Fatal(err)
		}
		faults(t, origin, "* => status code=500")
		if err := tt.do(connect(t, origin, Options{Retry: policy})); err == nil {
			t.Errorf("%s: no error", tt.name)
		}
		if n := origin.Count(tt.op, tt.key).Requests; n != int64(policy.Attempts) {
			t.Errorf("%s: %d requests, want %d", tt.name, n, policy.Attempts)
		}
	}
}
