package s3

import (
	"bytes"
	"fmt"
	"io"
	"testing"

	"github.com/penstock/penstock/internal/budget"
	"github.com/penstock/penstock/internal/ranges"
	"github.com/penstock/penstock/internal/ranges/rangestest"
	"github.com/penstock/penstock/internal/testorigin"
)

// A source keeps the contract of the engine, with and without the SDK.
func TestConform(t *testing.T) {
	origin := start(t, testorigin.Options{})
	c := connect(t, origin, Options{})
	for _, way := range []string{"short", "long"} {
		source := func(t *testing.T, key string) ranges.Source {
			t.Helper()
			s := c.Source("data", key, SourceOptions{}).(*source)
			p, err := s.locate(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			tg := *p.target
			tg.plain = way == "short"
			s.place.Store(nil)
			c.mu.Lock()
			c.targets[targetID{DefaultRegion, "data"}] = &tg
			c.mu.Unlock()
			return s
		}
		n := 0
		t.Run(way, func(t *testing.T) {
			rangestest.Conform(t, rangestest.Target{
				Open: func(t *testing.T, data []byte) ranges.Source {
					n++
					key := fmt.Sprint(way, n)
					if err := origin.Put("data", key, data); err != nil {
						t.Fatal(err)
					}
					return source(t, key)
				},
				Missing: func(t *testing.T) ranges.Source { return source(t, "missing") },
				Replace: func(t *testing.T, src ranges.Source, data []byte) {
					if err := origin.Put("data", src.(keyed).name(), data); err != nil {
						t.Fatal(err)
					}
				},
			})
		})
	}
}

// The engine reads through this client under every fault that it handles. The
// bytes are right, and the checksum of the whole object is verified.
func TestEngine(t *testing.T) {
	origin := start(t, testorigin.Options{Seed: 1})
	data := realBytes(t, 8<<20)
	c := connect(t, origin, Options{})
	if _, err := c.Upload(t.Context(), "data", "k", bytes.NewReader(data), PutOptions{PartBytes: minPart}); err != nil {
		t.Fatal(err)
	}
	faults(t, origin, `
		GetObject p=0.1 => status code=503
		GetObject p=0.1 => truncate at=random
		GetObject p=0.05 => reset at=random
		GetObject nth=5 => expire`)
	b := budget.New(16 << 20)
	e, err := ranges.New(ranges.Options{Budget: b, PartBytes: 256 << 10})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	info, err := c.Head(t.Context(), "data", "k")
	if err != nil || info.Checksum.Algorithm != ranges.CRC64NVME {
		t.Fatalf("%+v, %v", info, err)
	}
	obj := e.Object(c.Source("data", "k", SourceOptions{}), c.Spec("data", "k", info))
	s := obj.Stream(t.Context(), 0, -1, ranges.StreamOptions{})
	defer s.Close()
	got, err := io.ReadAll(s)
	if err != nil || !bytes.Equal(got, data) {
		t.Fatalf("%d of %d bytes, %v", len(got), len(data), err)
	}
	if again := origin.Coverage("data/k").Again; again > int64(len(data)) {
		t.Errorf("%d bytes were sent twice", again)
	}
}

// keyed adds the key to a source.
type keyed interface{ name() string }

func (s *source) name() string { return s.key }
