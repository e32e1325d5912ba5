package ranges_test

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/penstock/penstock/internal/ranges"
	"github.com/penstock/penstock/internal/ranges/rangestest"
)

// Two answers with another validator end a read with ErrChanged at once. Later reads
// of the same Object are not affected.
func TestChangedNeedsTwoAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &rangestest.Source{Data: rangestest.Random(100, 1), Pin: "etag:\"1\""}
		odd := true
		src.Fault = func(int, ranges.Request) rangestest.Action {
			if odd {
				return rangestest.Action{OtherPin: "etag:\"2\""}
			}
			return rangestest.Action{}
		}
		e := newEngine(t, ranges.Options{})
		o := e.Object(src, ranges.Spec{Name: "o", Host: "h", Size: 100, Pin: "etag:1"})
		start := time.Now()
		if _, err := o.Fetch(t.Context(), make([]byte, 10), 0); !errors.Is(err, ranges.ErrChanged) || len(src.Requests()) != 2 || time.Since(start) > time.Second {
			t.Errorf("%v after %d requests and %v", err, len(src.Requests()), time.Since(start))
		}
		odd = false
		p := make([]byte, 100)
		if _, err := o.Fetch(t.Context(), p, 0); err != nil || !bytes.Equal(p, src.Data) {
			t.Errorf("a later read failed: %v", err)
		}
		if pin := src.Requests()[2].Pin; pin != "etag:1" {
			t.Errorf("asked with pin %q before the object's own answer", pin)
		}
		if _, err := o.Fetch(t.Context(), p, 0); err != nil || src.Requests()[3].Pin != src.Pin {
			t.Errorf("%v, asked with pin %q: want the spelling of the object's own answer", err, src.Requests()[3].Pin)
		}
	})
}

// Answers of a wrong size without a validator are failed attempts. If they don't
// stop, the error describes the last one.
func TestUnpinnedWrongAnswersAreRetried(t *testing.T) {
	page := int64(62)
	synctest.Test(t, func(t *testing.T) {
		src := &rangestest.Source{Data: rangestest.Random(mib, 1), Pin: "etag:1"}
		start := time.Now()
		odd := time.Minute
		src.Fault = func(int, ranges.Request) rangestest.Action {
			if time.Since(start) < odd {
				return rangestest.Action{OtherSize: &page, Whole: true, NoPin: true}
			}
			return rangestest.Action{}
		}
		e := newEngine(t, ranges.Options{})
		o := e.Object(src, ranges.Spec{Name: "o", Host: "h", Size: mib, Pin: "etag:1"})
		for verb, read := range verbs {
			start = time.Now()
			if got, err := read(t.Context(), o, mib); err != nil || !bytes.Equal(got, src.Data) {
				t.Errorf("%s: %v", verb, err)
			}
		}
		start, odd = time.Now(), time.Hour
		_, err := o.Fetch(t.Context(), make([]byte, 10), 0)
		if errors.Is(err, ranges.ErrChanged) || err == nil || !strings.Contains(err.Error(), "object of 62 bytes") {
			t.Errorf("without an end: %v", err)
		}
	})
}

// Answers with the right validator and another size are retried three times. Then
// the expected size counts as wrong.
func TestWrongSizeNeedsFourAnswers(t *testing.T) {
	other, empty := int64(62), int64(0)
	for name, act := range map[string]rangestest.Action{
		"an empty body":  {OtherSize: &empty, Whole: true},
		"a short object": {OtherSize: &other},
	} {
		synctest.Test(t, func(t *testing.T) {
			src := &rangestest.Source{Data: rangestest.Random(mib, 1), Pin: "etag:1"}
			left := 3
			src.Fault = func(int, ranges.Request) rangestest.Action {
				if left--; left >= 0 {
					return act
				}
				return rangestest.Action{}
			}
			e := newEngine(t, ranges.Options{Hedge: noHedge.Hedge})
			o := e.Object(src, ranges.Spec{Name: "o", Host: "h", Size: mib, Pin: "etag:1"})
			p := make([]byte, 100)
			if _, err := o.Fetch(t.Context(), p, 0); err != nil || !bytes.Equal(p, src.Data[:100]) {
				t.Errorf("%s, three times: %v", name, err)
			}
			left = 4
			if _, err := o.Fetch(t.Context(), p, 0); !errors.Is(err, ranges.ErrSize) || errors.Is(err, ranges.ErrChanged) {
				t.Errorf("%s, four times: %v", name, err)
			}
			if _, err := o.Fetch(t.Context(), p, 0); err != nil {
				t.Errorf("%s: a later read failed: %v", name, err)
			}
		})
	}
}

// If a server sends fewer bytes than requested, they are kept, and the rest is
// requested on the same connection without a pause.
func TestClippedAnswers(t *testing.T) {
	for _, size := range []int64{mib, -1} {
		for verb, read := range verbs {
			if size < 0 && verb == "read" {
				continue // the verb requests the size first
			}
			synctest.Test(t, func(t *testing.T) {
				src := &rangestest.Source{Data: rangestest.Random(mib, 1), Pin: "etag:1", HideSize: size < 0}
				src.Fault = func(int, ranges.Request) rangestest.Action { return rangestest.Action{Clip: 100_000} }
				var log safeBuffer
				e := newEngine(t, ranges.Options{PartBytes: 512 * kib, Log: slog.New(slog.NewTextHandler(&log, nil))})
				start := time.Now()
				got, err := read(t.Context(), e.Object(src, ranges.Spec{Name: "o", Host: "h", Size: size}), mib)
				if err != nil || !bytes.Equal(got, src.Data) {
					t.Errorf("%s: %d bytes, %v", verb, len(got), err)
				}
				for _, r := range src.Requests() {
					if r.Fresh {
						t.Errorf("%s: asked on a new connection: %+v", verb, r)
					}
				}
				if st := e.Stats(); st.Retries != 0 || time.Since(start) > time.Second || log.String() != "" {
					t.Errorf("%s: %+v after %v, log %q", verb, st, time.Since(start), log.String())
				}
			})
		}
	}
}

// A server that sends one byte for each request makes no progress, so the read fails
// when an outage would be over.
func TestSingleBytesAreNotProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &rangestest.Source{Data: rangestest.Random(mib, 1), Pin: "etag:1"}
		src.Fault = func(int, ranges.Request) rangestest.Action { return rangestest.Action{Clip: 1} }
		e := newEngine(t, ranges.Options{})
		start := time.Now()
		_, err := e.Object(src, ranges.Spec{Name: "o", Host: "h", Size: mib}).Fetch(t.Context(), make([]byte, 64*kib), 0)
		if n := len(src.Requests()); err == nil || n > 50 || time.Since(start) > 61*time.Second {
			t.Errorf("%v after %d requests and %v", err, n, time.Since(start))
		}
	})
}

// A whole-object answer without a length is accepted if the size is known. One that
// is longer or shorter than the object is an error.
func TestWholeAnswerWithoutLength(t *testing.T) {
	for _, extra := range []int64{0, 1, 1000, -1, -1000} {
		for verb, read := range verbs {
			synctest.Test(t, func(t *testing.T) {
				src := &rangestest.Source{Data: rangestest.Random(200_000, 1)}
				src.Fault = func(int, ranges.Request) rangestest.Action {
					return rangestest.Action{Whole: true, NoLength: true, Extra: extra}
				}
				e := newEngine(t, ranges.Options{Retry: ranges.RetryPolicy{Attempts: 3}})
				got, err := read(t.Context(), e.Object(src, ranges.Spec{Name: "o", Host: "h", Size: 200_000}), 200_000)
				if extra == 0 && (err != nil || !bytes.Equal(got, src.Data)) {
					t.Errorf("%s: %d bytes, %v", verb, len(got), err)
				}
				if extra != 0 && (err == nil || len(got) >= 200_000) {
					t.Errorf("%s: a body with %d bytes too many was accepted", verb, extra)
				}
			})
		}
	}
	t.Run("no validator", func(t *testing.T) { // the error page of a proxy must not be taken for a pinned object
		synctest.Test(t, func(t *testing.T) {
			src := &rangestest.Source{Data: rangestest.Random(200_000, 1), Pin: "etag:1"}
			src.Fault = func(n int, _ ranges.Request) rangestest.Action {
				return rangestest.Action{Whole: n == 0, NoLength: n == 0, NoPin: n == 0}
			}
			e := newEngine(t, ranges.Options{})
			got, err := verbs["stream"](t.Context(), e.Object(src, ranges.Spec{Name: "o", Host: "h", Size: 200_000, Pin: "etag:1"}), 200_000)
			// The range that got the page depends on the order of the requests. It must be requested again as a whole.
			reqs := src.Requests()
			again := slices.ContainsFunc(reqs[1:], func(r ranges.Request) bool { return r.Off == reqs[0].Off && r.Attempt == 1 })
			if err != nil || !bytes.Equal(got, src.Data) || !again {
				t.Errorf("%d bytes, right %v, %v, requests %+v", len(got), bytes.Equal(got, src.Data), err, reqs)
			}
		})
	})
	t.Run("unknown size", func(t *testing.T) {
		src := &rangestest.Source{Data: rangestest.Random(200_000, 1)}
		src.Fault = func(int, ranges.Request) rangestest.Action { return rangestest.Action{Whole: true, NoLength: true} }
		s := newEngine(t, ranges.Options{}).Object(src, unknown).Stream(t.Context(), 0, -1, ranges.StreamOptions{})
		defer s.Close()
		if _, err := io.ReadAll(s); !errors.Is(err, ranges.ErrNoRanges) {
			t.Errorf("%v", err)
		}
	})
}

// A 416 without a size ends an object of unknown size. Inside an object of known
// size it is a wrong answer.
func TestUnsatisfiableWithoutSize(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &rangestest.Source{Data: rangestest.Random(128*kib, 1), Pin: "etag:1", HideSize: true} // two whole parts
		e := newEngine(t, ranges.Options{})
		for _, verb := range []string{"stream", "fetch"} {
			got, err := verbs[verb](t.Context(), e.Object(src, unknown), 256*kib)
			if err == io.EOF { //nolint:errorlint // as Fetch returns it
				err = nil
			}
			if err != nil || !bytes.Equal(got, src.Data) {
				t.Errorf("%s: %d bytes, %v", verb, len(got), err)
			}
		}
		src.HideSize = false
		src.Fault = func(n int, _ ranges.Request) rangestest.Action {
			return rangestest.Action{Err: &ranges.Fault{Kind: ranges.OutOfRange, Status: 416}}
		}
		before := len(src.Requests())
		_, err := e.Object(src, ranges.Spec{Name: "o", Host: "h", Size: 128 * kib}).Fetch(t.Context(), make([]byte, 10), 0)
		if n := len(src.Requests()) - before; err == nil || n != 2 {
			t.Errorf("%v after %d requests", err, n)
		}
	})
}

// After a single whole-object answer the engine still requests ranges.
func TestWholeAnswerIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &rangestest.Source{Data: rangestest.Random(8*mib, 1), Pin: "etag:1"}
		src.Fault = func(n int, _ ranges.Request) rangestest.Action {
			return rangestest.Action{Whole: n == 0, Delay: time.Millisecond}
		}
		e := newEngine(t, ranges.Options{Hedge: noHedge.Hedge})
		o := e.Object(src, ranges.Spec{Name: "o", Host: "h", Size: 8 * mib, Pin: "etag:1"})
		p := make([]byte, 100)
		if _, err := o.Fetch(t.Context(), p, 5*mib); err != nil || !bytes.Equal(p, src.Data[5*mib:5*mib+100]) {
			t.Errorf("%v", err)
		}
		if got, err := verbs["stream"](t.Context(), o, 8*mib); err != nil || !bytes.Equal(got, src.Data) || src.Peak() < 4 {
			t.Errorf("%d bytes, %v, %d requests at once", len(got), err, src.Peak())
		}
	})
}
