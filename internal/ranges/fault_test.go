package ranges_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/penstock/penstock/internal/budget"
	"github.com/penstock/penstock/internal/ranges"
	"github.com/penstock/penstock/internal/ranges/rangestest"
)

// A hedge of a stalled request fetches only the bytes that have not arrived, and
// the first attempt to finish wins.
func TestHedgeRequestsRemainingBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &rangestest.Source{Data: rangestest.Random(mib, 1), Pin: "etag:1"}
		src.Fault = func(n int, req ranges.Request) rangestest.Action {
			if n == 0 {
				return rangestest.Action{Stall: time.Hour, StallAt: 700 * kib}
			}
			return rangestest.Action{}
		}
		e := newEngine(t, ranges.Options{PartBytes: mib})
		p := make([]byte, mib)
		start := time.Now()
		if _, err := e.Object(src, ranges.Spec{Name: "o", Size: mib}).Fetch(t.Context(), p, 0); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(start); d > time.Second {
			t.Errorf("took %v", d)
		}
		if !bytes.Equal(p, src.Data) {
			t.Error("bytes differ")
		}
		reqs := src.Requests()
		if len(reqs) != 2 || reqs[1].Off != 700*kib || !reqs[1].Fresh {
			t.Errorf("requests %+v: the hedge should ask for the rest on a new connection", reqs)
		}
		if st := e.Stats(); st.HedgeWins != 1 || st.Wasted != 0 {
			t.Errorf("stats %+v", st)
		}
		if src.Running() != 0 {
			t.Error("the loser still runs")
		}
	})
}

// A consumer that stops reading must not look like a silent server: no request is
// hedged, and no byte arrives twice.
func TestStalledConsumerIsNotHedged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &rangestest.Source{Data: rangestest.Random(4*mib, 14), Pin: "etag:1"}
		src.Fault = func(int, ranges.Request) rangestest.Action { return rangestest.Action{Delay: 10 * time.Millisecond} }
		e := newEngine(t, ranges.Options{PartBytes: 64 * kib, Budget: budget.New(mib)})
		s := e.Object(src, unknown).Stream(t.Context(), 0, -1, ranges.StreamOptions{})
		defer s.Close()
		for off := int64(0); off < 4*mib; {
			time.Sleep(2 * time.Second)
			p, err := s.Next(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			off += int64(p.Buf.Len())
			p.Buf.Release()
		}
		if st := e.Stats(); st.Hedges != 0 || src.Sent() != 4*mib {
			t.Errorf("%d bytes sent of %d; %+v", src.Sent(), 4*mib, st)
		}
	})
}

// Requests are not hedged when the whole host slows down, because hedges would add
// to its load. A single request is hedged if it is stuck while others progress.
func TestOnlyStuckRequestIsHedged(t *testing.T) {
	const parts, before = 256, 100
	for name, stuck := range map[string]bool{"all slow": false, "one stuck": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				src := &rangestest.Source{Data: rangestest.Random(parts*16*kib, 15), Pin: "etag:1"}
				src.Fault = func(n int, _ ranges.Request) rangestest.Action {
					switch {
					case n < before || stuck && n > before:
						return rangestest.Action{Delay: 10 * time.Millisecond}
					case stuck:
						return rangestest.Action{Delay: time.Hour}
					}
					return rangestest.Action{Delay: 300 * time.Millisecond}
				}
				e := newEngine(t, ranges.Options{PartBytes: 16 * kib})
				s := e.Object(src, unknown).Stream(t.Context(), 0, -1, ranges.StreamOptions{})
				defer s.Close()
				start := time.Now()
				if got := readAll(t, s); !bytes.Equal(got, src.Data) {
					t.Error("bytes differ")
				}
				st := e.Stats()
				switch {
				case src.Sent() != int64(len(src.Data)):
					t.Errorf("%d bytes sent of %d", src.Sent(), len(src.Data))
				case !stuck && st.Hedges != 0:
					t.Errorf("%d hedges", st.Hedges)
				case stuck && (st.Hedges != 1 || st.HedgeWins != 1 || time.Since(start) > time.Second):
					t.Errorf("%v; %+v", time.Since(start), st)
				}
			})
		})
	}
}

// Without hedges a silent body ends after RetryPolicy.Stall, and a slow body that
// is never silent for so long may take any time.
func TestStallMeasuresSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &rangestest.Source{Data: rangestest.Random(mib, 2), Pin: "etag:1"}
		src.Fault = func(n int, req ranges.Request) rangestest.Action {
			if n == 0 {
				return rangestest.Action{Stall: time.Hour, StallAt: 300 * kib}
			}
			// slow for a minute, but never silent for 5 s
			return rangestest.Action{BytesRate: 16 * kib}
		}
		e := newEngine(t, ranges.Options{PartBytes: mib, Retry: ranges.RetryPolicy{Stall: 5 * time.Second}, Hedge: noHedge.Hedge})
		p := make([]byte, mib)
		if _, err := e.Object(src, unknown).Fetch(t.Context(), p, 0); err != nil || !bytes.Equal(p, src.Data) {
			t.Fatal(err)
		}
		if reqs := src.Requests(); len(reqs) != 2 || reqs[1].Off != 300*kib || !reqs[1].Fresh {
			t.Errorf("requests %+v", reqs)
		}
		if st := e.Stats(); st.Stalls != 1 || st.Resumes != 1 {
			t.Errorf("stats %+v", st)
		}
	})
}

// Hedges stay within their budget when all requests stall.
func TestHedgesAreBudgeted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &rangestest.Source{Data: rangestest.Random(4*mib, 3), Pin: "etag:1"}
		src.Fault = func(n int, req ranges.Request) rangestest.Action {
			return rangestest.Action{Delay: 2 * time.Second, Stall: 2 * time.Second, StallAt: req.Len / 2}
		}
		e := newEngine(t, ranges.Options{PartBytes: 16 * kib})
		s := e.Object(src, unknown).Stream(t.Context(), 0, -1, ranges.StreamOptions{})
		defer s.Close()
		if got := readAll(t, s); !bytes.Equal(got, src.Data) {
			t.Error("bytes differ")
		}
		if st := e.Stats(); st.Hedges > 1+st.Requests/20 {
			t.Errorf("%d hedges among %d requests", st.Hedges, st.Requests)
		}
	})
}

// The head that the consumer waits for runs before queued read-ahead.
func TestHeadBeforeReadAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		big := &rangestest.Source{Data: rangestest.Random(8*mib, 4), Pin: "etag:1"}
		small := &rangestest.Source{Data: rangestest.Random(10*kib, 5), Pin: "etag:1"}
		slow := func(int, ranges.Request) rangestest.Action { return rangestest.Action{Delay: time.Second} }
		big.Fault, small.Fault = slow, slow
		e := newEngine(t, ranges.Options{MaxConns: 4, PartBytes: 64 * kib, Hedge: noHedge.Hedge})
		s := e.Object(big, ranges.Spec{Name: "big", Size: 8 * mib}).Stream(t.Context(), 0, -1, ranges.StreamOptions{})
		defer s.Close()
		for range 8 { // the window grows until far more parts are queued than run
			p, err := s.Next(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			p.Buf.Release()
		}
		before := len(big.Requests())
		if _, err := e.Object(small, ranges.Spec{Name: "small", Size: 10 * kib}).Fetch(t.Context(), make([]byte, 10*kib), 0); err != nil {
			t.Fatal(err)
		}
		if after := len(big.Requests()); after-before > 8 {
			t.Errorf("%d prefetch requests went before a waiting reader's", after-before)
		}
	})
}

func TestThrottleShrinksConcurrency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &rangestest.Source{Data: rangestest.Random(16*mib, 6), Pin: "etag:1"}
		src.Fault = func(n int, req ranges.Request) rangestest.Action {
			a := rangestest.Action{Delay: 50 * time.Millisecond}
			if src.Running() > 6 { // the host accepts six concurrent requests
				a.Err = &ranges.Fault{Kind: ranges.Throttled, Status: 503}
			}
			return a
		}
		e := newEngine(t, ranges.Options{Hedge: noHedge.Hedge})
		s := e.Object(src, unknown).Stream(t.Context(), 0, -1, ranges.StreamOptions{})
		defer s.Close()
		if got := readAll(t, s); !bytes.Equal(got, src.Data) {
			t.Error("bytes differ")
		}
		st := e.Stats()
		if st.Throttled == 0 || st.Throttled > st.Requests/4 {
			t.Errorf("%d of %d requests were throttled: the limit did not settle", st.Throttled, st.Requests)
		}
	})
}

func TestRetryAfterIsHonoured(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &rangestest.Source{Data: rangestest.Random(kib, 7), Pin: "etag:1"}
		src.Fault = func(n int, _ ranges.Request) rangestest.Action {
			if n == 0 {
				return rangestest.Action{Err: &ranges.Fault{Kind: ranges.Throttled, Status: 429, RetryAfter: 30 * time.Second}}
			}
			return rangestest.Action{}
		}
		e := newEngine(t, ranges.Options{})
		start := time.Now()
		if _, err := e.Object(src, unknown).Fetch(t.Context(), make([]byte, kib), 0); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(start); d < 30*time.Second || d > 31*time.Second {
			t.Errorf("asked again after %v", d)
		}
	})
}

// Errors that a retry can't mend end the read at once, with status and cause.
func TestPermanentErrors(t *testing.T) {
	for kind, want := range map[ranges.FaultKind]error{ranges.NotFound: ranges.ErrNotFound, ranges.Denied: ranges.ErrDenied, ranges.Permanent: nil} {
		src := &rangestest.Source{Data: make([]byte, kib)}
		src.Fault = func(int, ranges.Request) rangestest.Action {
			return rangestest.Action{Err: &ranges.Fault{Kind: kind, Status: 400, Err: errors.New("the reason")}}
		}
		e := newEngine(t, ranges.Options{})
		_, err := e.Object(src, unknown).Fetch(t.Context(), make([]byte, 10), 5)
		var re *ranges.Error
		if !errors.As(err, &re) || re.Off != 5 || re.Len != 10 || re.Status != 400 || re.Attempts != 1 || (want != nil && !errors.Is(err, want)) {
			t.Errorf("%v: %v", kind, err)
		}
		if !strings.Contains(err.Error(), "mem://o bytes 5-14") || !strings.Contains(err.Error(), "the reason") {
			t.Errorf("message %q", err)
		}
		if n := len(src.Requests()); n != 1 {
			t.Errorf("%v: %d requests", kind, n)
		}
	}
}

func TestGivesUpAfterAttempts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &rangestest.Source{Data: make([]byte, kib)}
		src.Fault = func(int, ranges.Request) rangestest.Action {
			return rangestest.Action{Err: errors.New("connection refused")}
		}
		e := newEngine(t, ranges.Options{Retry: ranges.RetryPolicy{Attempts: 4}, Hedge: noHedge.Hedge})
		_, err := e.Object(src, unknown).Fetch(t.Context(), make([]byte, 10), 0)
		var re *ranges.Error
		if !errors.As(err, &re) || re.Attempts != 4 || !strings.Contains(err.Error(), "attempt 4") {
			t.Errorf("%v", err)
		}
		if len(src.Requests()) != 4 {
			t.Errorf("%d requests", len(src.Requests()))
		}
	})
}

// An answer that is wrong about its bytes leads to a retry or an error, never to
// wrong bytes.
func TestWrongAnswersAreRejected(t *testing.T) {
	for name, act := range map[string]rangestest.Action{
		"wrong offset":    {WrongOff: 1},
		"fewer bytes":     {Short: 10},
		"other validator": {OtherPin: "etag:2"}, // a single answer is retried
		"other size":      {OtherSize: new(int64(62))},
		"a proxy's page":  {OtherSize: new(int64(62)), Whole: true, NoPin: true},
		"an empty body":   {OtherSize: new(int64(0)), Whole: true},
		"no validator":    {NoPin: true}, // the bytes are right
		"cut":             {Cut: true, CutAt: 1000},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				src := &rangestest.Source{Data: rangestest.Random(mib, 8), Pin: "etag:1"}
				src.Fault = func(n int, _ ranges.Request) rangestest.Action {
					if n == 3 {
						return act
					}
					return rangestest.Action{}
				}
				e := newEngine(t, ranges.Options{Hedge: noHedge.Hedge})
				s := e.Object(src, unknown).Stream(t.Context(), 0, -1, ranges.StreamOptions{})
				defer s.Close()
				var out bytes.Buffer
				_, err := s.WriteTo(&out)
				if !bytes.Equal(out.Bytes(), src.Data[:out.Len()]) {
					t.Fatal("wrong bytes were delivered")
				}
				if err != nil || out.Len() != mib {
					t.Errorf("%d bytes, %v", out.Len(), err)
				}
			})
		})
	}
}

// A server stops serving ranges during a stream. The stream continues with the
// whole-object answer if it has to discard few bytes, and fails otherwise.
func TestServerStopsServingRanges(t *testing.T) {
	for after, wantErr := range map[int64]bool{mib: false, 7 * mib: true} {
		src := &rangestest.Source{Data: rangestest.Random(8*mib, 9), Pin: "etag:1"}
		src.Fault = func(_ int, req ranges.Request) rangestest.Action { return rangestest.Action{Whole: req.Off >= after} }
		e := newEngine(t, ranges.Options{Hedge: noHedge.Hedge})
		s := e.Object(src, unknown).Stream(t.Context(), 0, -1, ranges.StreamOptions{})
		var out bytes.Buffer
		_, err := s.WriteTo(&out)
		if !bytes.Equal(out.Bytes(), src.Data[:out.Len()]) {
			t.Fatal("wrong bytes were delivered")
		}
		if errors.Is(err, ranges.ErrNoRanges) != wantErr || (!wantErr && out.Len() != len(src.Data)) {
			t.Errorf("from %d on: %d bytes, %v", after, out.Len(), err)
		}
		s.Close()
	}
}

func TestChecksumMismatch(t *testing.T) {
	good := rangestest.Random(mib, 10)
	for _, alg := range []ranges.ChecksumAlgorithm{ranges.CRC32C, ranges.CRC64NVME} {
		sum := (&rangestest.Source{Data: good, Sum: alg}).Checksum()
		bad := bytes.Clone(good)
		bad[500_000] ^= 1
		e := newEngine(t, noHedge)
		s := e.Object(&rangestest.Source{Data: bad, Pin: "etag:1"}, ranges.Spec{Name: "o", Size: mib, Sum: sum}).Stream(t.Context(), 0, -1, ranges.StreamOptions{})
		n, err := io.Copy(io.Discard, s)
		if !errors.Is(err, ranges.ErrChecksum) || n >= mib {
			t.Errorf("%v: %d bytes delivered, %v", alg, n, err)
		}
		s.Close()
	}
}

func TestCancelAndClose(t *testing.T) {
	stuck := func(int, ranges.Request) rangestest.Action { return rangestest.Action{Delay: time.Hour} }
	cause := errors.New("the caller's cause")
	for name, end := range map[string]func(context.CancelCauseFunc, *ranges.Stream, *ranges.Engine){
		"context": func(c context.CancelCauseFunc, _ *ranges.Stream, _ *ranges.Engine) { c(cause) },
		"stream":  func(_ context.CancelCauseFunc, s *ranges.Stream, _ *ranges.Engine) { go s.Close() },
		"engine":  func(_ context.CancelCauseFunc, _ *ranges.Stream, e *ranges.Engine) { go e.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				src := &rangestest.Source{Data: rangestest.Random(mib, 11), Pin: "etag:1", Fault: stuck}
				e := newEngine(t, noHedge)
				ctx, cancel := context.WithCancelCause(t.Context())
				s := e.Object(src, ranges.Spec{Name: "o", Size: mib}).Stream(ctx, 0, -1, ranges.StreamOptions{})
				got := make(chan error, 1)
				go func() { _, err := s.Read(make([]byte, 10)); got <- err }()
				synctest.Wait()
				start := time.Now()
				end(cancel, s, e)
				err := <-got
				if d := time.Since(start); d != 0 {
					t.Errorf("ended after %v", d)
				}
				want := ranges.ErrClosed
				if name == "context" {
					want = cause
				}
				if !errors.Is(err, want) {
					t.Errorf("error %v, want %v", err, want)
				}
				synctest.Wait()
				s.Close()
				cancel(nil)
				if src.Running() != 0 {
					t.Errorf("%d requests still run", src.Running())
				}
			})
		})
	}
}

// A consumer that holds its parts waits for memory until its context ends, and
// other streams still get a first window.
func TestConsumerHoldsParts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := budget.New(4 * 64 * kib)
		src := &rangestest.Source{Data: rangestest.Random(mib, 12), Pin: "etag:1"}
		e := newEngine(t, ranges.Options{Budget: b, Hedge: noHedge.Hedge})
		o := e.Object(src, ranges.Spec{Name: "o", Size: mib})
		s := o.Stream(t.Context(), 0, -1, ranges.StreamOptions{})
		defer s.Close()
		var held []ranges.Part
		for range 4 {
			p, err := s.Next(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			held = append(held, p)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := s.Next(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("fifth part with a budget of four: %v", err)
		}
		other := o.Stream(t.Context(), 0, 64*kib, ranges.StreamOptions{})
		if got := readAll(t, other); !bytes.Equal(got, src.Data[:64*kib]) {
			t.Error("the other stream's bytes differ")
		}
		other.Close()
		for _, p := range held {
			if !bytes.Equal(p.Buf.Bytes(), src.Data[p.Off:p.Off+64*kib]) {
				t.Error("a held part was overwritten")
			}
			p.Buf.Release()
		}
		for i := 4; i < 16; i++ {
			p, err := s.Next(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			p.Buf.Release()
		}
		if _, err := s.Next(t.Context()); err != io.EOF {
			t.Errorf("at the end: %v", err)
		}
	})
}

func Example() {
	e, err := ranges.New(ranges.Options{Budget: budget.New(16 * mib), PartBytes: 64 * kib})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer e.Close()
	src := &rangestest.Source{Data: []byte(strings.Repeat("weights ", 100_000)), Pin: "etag:1"}
	o := e.Object(src, ranges.Spec{Name: "s3://models/llama", Host: "s3", Size: -1})

	s := o.Stream(context.Background(), 0, -1, ranges.StreamOptions{Sum: ranges.CRC32C})
	defer s.Close()
	n, err := io.Copy(io.Discard, s)
	sum, _ := s.Sum()
	fmt.Println(n, err, sum)

	p := make([]byte, 7)
	_, err = o.Fetch(context.Background(), p, 8)
	fmt.Println(string(p), err)
	// Output:
	// 800000 <nil> CRC32C f18867f0
	// weights <nil>
}

// The first answer's header has the size. The other parts start then, and don't
// wait for the first part's bytes.
func TestFirstAnswerStartsOtherParts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &rangestest.Source{Data: rangestest.Random(mib, 14), Pin: "etag:1"}
		src.Fault = func(int, ranges.Request) rangestest.Action {
			return rangestest.Action{Delay: 30 * time.Millisecond, BytesRate: mib}
		}
		e := newEngine(t, ranges.Options{PartBytes: 256 * kib, Hedge: noHedge.Hedge})
		s := e.Object(src, unknown).Stream(t.Context(), 0, -1, ranges.StreamOptions{})
		defer s.Close()
		start := time.Now()
		if got := readAll(t, s); !bytes.Equal(got, src.Data) {
			t.Error("bytes differ")
		}
		// Two latencies and one part's time.
		if d := time.Since(start); d > 320*time.Millisecond {
			t.Errorf("four parts of 250 ms took %v", d)
		}
	})
}

// While the head is silent the other slots fetch more parts, up to the window.
func TestLateHeadWidensWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &rangestest.Source{Data: rangestest.Random(16*mib, 15), Pin: "etag:1"}
		src.Fault = func(n int, _ ranges.Request) rangestest.Action {
			if n == 20 {
				return rangestest.Action{Stall: time.Hour, StallAt: 10 * kib}
			}
			return rangestest.Action{Delay: time.Millisecond}
		}
		e := newEngine(t, ranges.Options{PartBytes: 64 * kib, MaxConns: 4, Budget: budget.New(64 * mib), Hedge: noHedge.Hedge, Retry: ranges.RetryPolicy{Stall: time.Second}})
		s := e.Object(src, ranges.Spec{Name: "o", Size: 16 * mib}).Stream(t.Context(), 0, -1, ranges.StreamOptions{})
		defer s.Close()
		done := make(chan []byte)
		go func() { done <- readAll(t, s) }()
		time.Sleep(500 * time.Millisecond)
		synctest.Wait()
		// 20 parts before the head; after it 4 slots, a spare and 2, and 7 more while waiting
		if n := len(src.Requests()); n < 32 {
			t.Errorf("%d requests while the head stalls", n)
		}
		if !bytes.Equal(<-done, src.Data) {
			t.Error("bytes differ")
		}
	})
}

// The first part of an object of unknown size is small, and the later parts have
// the usual size.
func TestSmallFirstPart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &rangestest.Source{Data: rangestest.Random(9*mib, 16), Pin: "etag:1"}
		e := newEngine(t, ranges.Options{PartBytes: 8 * mib, Budget: budget.New(64 * mib)})
		s := e.Object(src, unknown).Stream(t.Context(), 0, -1, ranges.StreamOptions{})
		defer s.Close()
		if got := readAll(t, s); !bytes.Equal(got, src.Data) {
			t.Error("bytes differ")
		}
		for _, r := range src.Requests() { // in the order of the goroutines that made them
			switch {
			case r.Off == 0 && r.Len != mib:
				t.Errorf("the first request asks for %d bytes, want 1 MiB", r.Len)
			case r.Off >= 2*mib && r.Off+r.Len < int64(len(src.Data)) && r.Len < 2*mib:
				t.Errorf("a request at %d asks for %d bytes, want at least 2 MiB", r.Off, r.Len)
			}
		}
	})
}

// A hedge of a request with a clipped answer requests the rest of the range, not
// the rest of that answer.
func TestHedgeOfClippedAnswer(t *testing.T) {
	for verb, read := range verbs {
		synctest.Test(t, func(t *testing.T) {
			src := &rangestest.Source{Data: rangestest.Random(mib, 1), Pin: "etag:1"}
			src.Fault = func(n int, _ ranges.Request) rangestest.Action {
				if n == 0 {
					return rangestest.Action{Clip: 400 * kib, Stall: time.Hour, StallAt: 300 * kib}
				}
				return rangestest.Action{Clip: 400 * kib}
			}
			e := newEngine(t, ranges.Options{PartBytes: mib})
			got, err := read(t.Context(), e.Object(src, ranges.Spec{Name: "o", Host: "h", Size: mib}), mib)
			if err != nil || !bytes.Equal(got, src.Data) {
				t.Errorf("%s: %d bytes of %d, %v, %+v", verb, len(got), mib, err, e.Stats())
			}
		})
	}
}
