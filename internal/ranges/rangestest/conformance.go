package rangestest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync"
	"testing"

	"github.com/penstock/penstock/internal/ranges"
)

// Target makes sources of the implementation under test.
type Target struct {
	// Open returns a source of an object with this content.
	Open func(t *testing.T, data []byte) ranges.Source
	// Missing returns a source of an object that does not exist. Nil skips the test.
	Missing func(t *testing.T) ranges.Source
	// Replace gives the object of a source new content. Nil skips the test.
	Replace func(t *testing.T, src ranges.Source, data []byte)
	// NoPin means that the implementation has no validator (content-addressed objects).
	NoPin bool
}

// Conform checks that a Source keeps the contract of [ranges.Source].
func Conform(t *testing.T, target Target) {
	data := Random(3<<20+17, 42)
	src := target.Open(t, data)
	size := int64(len(data))

	t.Run("ranges", func(t *testing.T) {
		for _, c := range []struct{ off, n int64 }{
			{0, 1},
			{0, size},
			{1, 100},
			{size - 1, 1},
			{1 << 20, 1 << 20},
			{0, size + 1000},
			{size - 10, 1000}, // cut at the end
		} {
			checkRange(t, src, data, c.off, c.n)
		}
	})
	t.Run("beyond the end", func(t *testing.T) {
		body, info, err := src.Open(t.Context(), ranges.Request{Off: size, Len: 10})
		closeIf(t, body)
		var f *ranges.Fault
		if !errors.As(err, &f) || f.Kind != ranges.OutOfRange {
			t.Fatalf("error %v, want a Fault of kind OutOfRange", err)
		}
		if info.Size != size {
			t.Errorf("size %d, want %d", info.Size, size)
		}
	})
	t.Run("concurrent", func(t *testing.T) {
		var wg sync.WaitGroup
		for i := range int64(32) {
			wg.Go(func() { checkRange(t, src, data, i*50_000, 100_000) })
		}
		wg.Wait()
	})
	t.Run("fresh connection", func(t *testing.T) {
		body, _, err := src.Open(t.Context(), ranges.Request{Off: 5, Len: 10, Fresh: true, Attempt: 1})
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(body)
		if err != nil || !bytes.Equal(got, data[5:15]) {
			t.Errorf("got %d bytes, %v", len(got), err)
		}
		closeIf(t, body)
	})
	t.Run("cancelled", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		body, _, err := src.Open(ctx, ranges.Request{Off: 0, Len: 10})
		if err == nil {
			_, err = io.ReadAll(body)
		}
		closeIf(t, body)
		if !errors.Is(err, context.Canceled) {
			t.Errorf("error %v, want context.Canceled", err)
		}
	})
	t.Run("pin", func(t *testing.T) { conformPin(t, target, src, data) })
	if target.Missing != nil {
		t.Run("missing", func(t *testing.T) {
			body, _, err := target.Missing(t).Open(t.Context(), ranges.Request{Off: 0, Len: 10})
			closeIf(t, body)
			if !errors.Is(err, ranges.ErrNotFound) {
				t.Errorf("error %v, want ErrNotFound", err)
			}
		})
	}
}

func conformPin(t *testing.T, target Target, src ranges.Source, data []byte) {
	if target.NoPin {
		t.Skip("content-addressed: no validator")
	}
	body, info, err := src.Open(t.Context(), ranges.Request{Off: 0, Len: 10})
	if err != nil {
		t.Fatal(err)
	}
	closeIf(t, body)
	if info.Pin == "" {
		t.Fatal("answer without a validator")
	}
	body, again, err := src.Open(t.Context(), ranges.Request{Off: 10, Len: 10, Pin: info.Pin})
	if err != nil {
		t.Fatal(err)
	}
	closeIf(t, body)
	if again.Pin != info.Pin {
		t.Errorf("validator %q, then %q", info.Pin, again.Pin)
	}
	if target.Replace == nil {
		return
	}
	target.Replace(t, src, Random(len(data), 43))
	body, after, err := src.Open(t.Context(), ranges.Request{Off: 20, Len: 10, Pin: info.Pin})
	closeIf(t, body)
	if err == nil && after.Pin == info.Pin {
		t.Error("the object was replaced, and the answer still has the old validator")
	}
	if err != nil && !errors.Is(err, ranges.ErrChanged) {
		t.Errorf("error %v, want ErrChanged", err)
	}
}

func checkRange(t *testing.T, src ranges.Source, data []byte, off, n int64) {
	t.Helper()
	body, info, err := src.Open(t.Context(), ranges.Request{Off: off, Len: n})
	if err != nil {
		t.Errorf("%d+%d: %v", off, n, err)
		return
	}
	want := data[off:min(off+n, int64(len(data)))]
	if info.Off != off || info.Len != int64(len(want)) || (info.Size >= 0 && info.Size != int64(len(data))) {
		t.Errorf("%d+%d: info %+v", off, n, info)
	}
	got, err := io.ReadAll(body)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d+%d: got %d bytes, %v", off, n, len(got), err)
	}
	closeIf(t, body)
}

func closeIf(t *testing.T, body io.Closer) {
	t.Helper()
	if body == nil {
		return
	}
	if err := body.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
}
