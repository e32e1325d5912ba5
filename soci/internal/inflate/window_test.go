package inflate

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/penstock/penstock/soci/internal/inflate/index"
)

// zstdWindowFrame compresses with a window of n bytes, as a single segment if
// single is true.
func zstdWindowFrame(t testing.TB, data []byte, n int, single bool) []byte {
	t.Helper()
	var buf bytes.Buffer
	w, err := zstd.NewWriter(&buf, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(n), zstd.WithSingleSegment(single))
	if err != nil {
		t.Fatal(err)
	}
	if single {
		return w.EncodeAll(data, nil)
	}
	w.Write(data)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// TestWindowsAreReserved checks that the memory of a window is reserved before
// its frame, and released before more is reserved, and at the end.
func TestWindowsAreReserved(t *testing.T) {
	data := slices.Repeat(sourceText(t), 4)
	large := slices.Repeat(data, 3<<20/len(data)+1)
	blob := slices.Concat(
		zstdWindowFrame(t, data, 64<<10, false), zstdWindowFrame(t, data, 1<<20, false), skippable(9),
		zstdWindowFrame(t, data, 4<<20, false), zstdWindowFrame(t, data, 2<<20, false),
		zstdWindowFrame(t, large, 1<<20, true), zstdWindowFrame(t, data, 8<<20, false))
	want := slices.Concat(data, data, data, data, large, data)
	for name, rec := range map[string]*index.Recorder{"plain": nil, "recorded": index.NewRecorder(1)} {
		var log []string
		var held int64
		r, err := NewReader(bytes.NewReader(blob), Options{Record: rec, Reserve: func(n int64) (func(), error) {
			if held != 0 {
				t.Errorf("%s: %d bytes asked for while %d are held", name, n, held)
			}
			held = n
			log = append(log, fmt.Sprint(n>>20))
			return func() { held = 0 }, nil
		}})
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(r)
		r.Close()
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes, %v; want %d", name, len(got), err, len(want))
		}
		if !slices.Equal(log, []string{"1", "4", "8"}) || held != 0 {
			t.Errorf("%s: reserved %v MiB, %d bytes held at the end", name, log, held)
		}
	}
}

// TestWindowRefused checks that a frame whose window exceeds the bound, or
// cannot be reserved, ends the blob after the output before it.
func TestWindowRefused(t *testing.T) {
	data := sourceText(t)
	large := slices.Repeat(data, 5<<20/len(data)+1)
	full := errors.New("no more memory")
	for name, c := range map[string]struct {
		last []byte
		want error
	}{
		"window": {zstdWindowFrame(t, data, 8<<20, false), ErrWindow}, "segment": {zstdWindowFrame(t, large, 1<<20, true), ErrWindow},
		"memory": {zstdWindowFrame(t, data, 2<<20, false), full},
	} {
		for _, workers := range []int{1, 3} {
			first := zstdWindowFrame(t, data, 64<<10, false)
			if workers > 1 {
				first = slices.Repeat(first, 300) // so that workers start
			}
			blob := slices.Concat(first, c.last)
			if workers > 1 && name == "memory" {
				continue // a small frame needs no window there
			}
			r, err := NewReader(bytes.NewReader(blob), Options{Workers: workers, MaxWindow: 4 << 20, Reserve: func(n int64) (func(), error) {
				if n > 1<<20 {
					return nil, full
				}
				return func() {}, nil
			}})
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(r)
			if !errors.Is(err, c.want) || errors.Is(err, ErrCorrupt) || len(got) != len(data)*(1+299*(workers/3)) {
				t.Errorf("%s, %d workers: %d bytes, %v", name, workers, len(got), err)
			}
			if _, err := r.Read(make([]byte, 1)); !errors.Is(err, c.want) {
				t.Errorf("%s: once more: %v", name, err)
			}
			r.Close()
		}
	}
}
