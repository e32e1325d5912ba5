package ranges_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/penstock/penstock/internal/ranges"
	"github.com/penstock/penstock/internal/ranges/rangestest"
)

// awayKinds are the kinds of outages, as actions for the requests during them.
var awayKinds = map[string]rangestest.Action{
	"refused":     {Err: errors.New("connection refused")},
	"503":         {Err: &ranges.Fault{Kind: ranges.Throttled, Status: 503}},
	"retry after": {Err: &ranges.Fault{Kind: ranges.Throttled, Status: 503, RetryAfter: 2 * time.Minute}},
	"silence":     {Delay: time.Hour},
	"stalls":      {Stall: time.Hour, StallAt: 100},
	"trickles":    {BytesRate: 1},
}

// verbs are the ways to read a whole object.
var verbs = map[string]func(context.Context, *ranges.Object, int) ([]byte, error){
	"stream": func(ctx context.Context, o *ranges.Object, _ int) ([]byte, error) {
		s := o.Stream(ctx, 0, -1, ranges.StreamOptions{})
		defer s.Close()
		return io.ReadAll(s)
	},
	"fetch": func(ctx context.Context, o *ranges.Object, n int) ([]byte, error) {
		p := make([]byte, n)
		got, err := o.Fetch(ctx, p, 0)
		return p[:got], err
	},
	"read": func(ctx context.Context, o *ranges.Object, n int) ([]byte, error) {
		r := o.Reader(ranges.ReaderOptions{})
		defer r.Close()
		p := make([]byte, n)
		for at := 0; at < n; at += 64 * kib {
			if _, err := r.ReadAt(ctx, p[at:min(at+64*kib, n)], int64(at)); err != nil {
				return p[:at], err
			}
		}
		return p, nil
	},
}

// The test checks the figures of docs/configuration.md. Every verb survives an
// outage of a minute, fails in bounded time if the outage doesn't end, and logs a
// warning in both cases.
func TestOutagesOfRanges(t *testing.T) {
	for kind, action := range awayKinds {
		for verb, read := range verbs {
			t.Run(kind+" "+verb, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					start := time.Now()
					var forever bool
					src := &rangestest.Source{Data: rangestest.Random(4*mib, 3), Pin: "etag:1"}
					src.Fault = func(n int, _ ranges.Request) rangestest.Action {
						if forever || n > 8 && time.Since(start) < ranges.DefaultOutage {
							return action
						}
						return rangestest.Action{}
					}
					var log safeBuffer
					e := newEngine(t, ranges.Options{PartBytes: 256 * kib, Log: slog.New(slog.NewTextHandler(&log, nil))})
					o := e.Object(src, ranges.Spec{Name: "mem://o", Host: "mem", Size: int64(len(src.Data))})
					got, err := read(t.Context(), o, len(src.Data))
					if err != nil || !bytes.Equal(got, src.Data) {
						t.Errorf("the read failed in an outage of %v: %d bytes, %v after %v", ranges.DefaultOutage, len(got), err, time.Since(start))
					}
					if n := strings.Count(log.String(), "level=WARN"); n < 1 || n > 9 {
						t.Errorf("%d warnings:\n%s", n, log.String())
					}
					start, forever = time.Now(), true
					_, err = read(t.Context(), o, len(src.Data))
					attempt := ranges.DefaultStall
					if kind == "trickles" {
						attempt = 3 * ranges.DefaultStall
					}
					most := ranges.DefaultOutage + attempt + time.Second
					if kind == "silence" || kind == "trickles" {
						most += attempt // a hedge of the attempt before the last
					}
					if took := time.Since(start); err == nil || took < ranges.DefaultOutage || took > most {
						t.Errorf("without an end: %v after %v", err, took)
					}
				})
			})
		}
	}
}

// safeBuffer is a buffer that several goroutines write to.
type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// A thousand reads of a silent host fail together. Those that wait for a slot don't
// run into their own bound one after the other.
func TestQueueOfSilentHostFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &rangestest.Source{Data: rangestest.Random(4*mib, 3), Pin: "etag:1"}
		src.Fault = func(int, ranges.Request) rangestest.Action { return rangestest.Action{Delay: time.Hour} }
		e := newEngine(t, ranges.Options{MaxConns: 4, Hedge: noHedge.Hedge})
		o := e.Object(src, ranges.Spec{Name: "mem://o", Host: "mem", Size: int64(len(src.Data))})
		start := time.Now()
		errs := make(chan error)
		for i := range int64(1000) {
			go func() {
				var p [16]byte
				_, err := o.Fetch(t.Context(), p[:], i*4096)
				errs <- err
			}()
		}
		for range 1000 {
			if err := <-errs; err == nil {
				t.Error("a read of a silent host succeeded")
			}
		}
		if took := time.Since(start); took > 2*ranges.DefaultOutage {
			t.Errorf("took %v", took)
		}
	})
}

// Spec.Outage replaces the engine's bound for one object.
func TestOutagePerObject(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &rangestest.Source{Data: rangestest.Random(100, 3), Pin: "etag:1"}
		src.Fault = func(int, ranges.Request) rangestest.Action { return awayKinds["refused"] }
		e := newEngine(t, ranges.Options{})
		for _, d := range []time.Duration{-1, 5 * time.Second} {
			start := time.Now()
			_, err := e.Object(src, ranges.Spec{Name: "o", Host: "h", Size: 100, Outage: d}).Fetch(t.Context(), make([]byte, 10), 0)
			if took := time.Since(start); err == nil || took != max(d, 0) {
				t.Errorf("outage %v: %v after %v", d, err, took)
			}
		}
	})
}

// A log handler that blocks delays no request.
func TestBlockedLogDelaysNoRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &rangestest.Source{Data: rangestest.Random(mib, 3), Pin: "etag:1"}
		src.Fault = func(n int, _ ranges.Request) rangestest.Action {
			if n%2 == 0 {
				return rangestest.Action{Err: fmt.Errorf("reset %d", n)}
			}
			return rangestest.Action{}
		}
		read, write := io.Pipe()
		e := newEngine(t, ranges.Options{Log: slog.New(slog.NewTextHandler(write, nil))})
		o := e.Object(src, ranges.Spec{Name: "mem://o", Host: "mem", Size: int64(len(src.Data))})
		got, err := verbs["stream"](t.Context(), o, len(src.Data))
		if err != nil || !bytes.Equal(got, src.Data) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		read.Close()
	})
}
