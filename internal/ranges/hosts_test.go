package ranges_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/penstock/penstock/internal/ranges"
	"github.com/penstock/penstock/internal/ranges/rangestest"
)

// A host that throttles all requests delays all of its objects until the time that
// it names, and no object of another host.
func TestThrottleIsPerHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const later = 30 * time.Second
		busy := &rangestest.Source{Data: rangestest.Random(kib, 1), Pin: "etag:1"}
		begun := time.Now()
		busy.Fault = func(int, ranges.Request) rangestest.Action {
			if time.Since(begun) < later {
				return rangestest.Action{Err: &ranges.Fault{Kind: ranges.Throttled, Status: 429, RetryAfter: later}}
			}
			return rangestest.Action{}
		}
		e := newEngine(t, noHedge)
		fetch := func(src *rangestest.Source, name, host string) error {
			_, err := e.Object(src, ranges.Spec{Name: name, Host: host, Size: kib}).Fetch(t.Context(), make([]byte, kib), 0)
			return err
		}
		ended := make(chan error, 24) // enough to throttle the whole host
		for range cap(ended) {
			go func() { ended <- fetch(busy, "mem://busy/one", "busy") }()
		}
		time.Sleep(time.Second)
		neighbour := &rangestest.Source{Data: rangestest.Random(kib, 2), Pin: "etag:1"}
		elsewhere := &rangestest.Source{Data: rangestest.Random(kib, 3), Pin: "etag:1"}
		if err := fetch(elsewhere, "mem://free/one", "free"); err != nil || time.Since(begun) > 2*time.Second {
			t.Errorf("another host: after %v, %v", time.Since(begun), err)
		}
		if err := fetch(neighbour, "mem://busy/two", "busy"); err != nil || time.Since(begun) < later {
			t.Errorf("another object of the host: after %v, %v", time.Since(begun), err)
		}
		for range cap(ended) {
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
	})
}
