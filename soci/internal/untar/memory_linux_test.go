package untar

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/penstock/penstock/soci/internal/tarfile"
	"github.com/penstock/penstock/soci/internal/tarfile/tartest"
)

// TestMemoryShares checks that, once the limit is reached, an image fails if
// and only if it holds more than its share.
func TestMemoryShares(t *testing.T) {
	var told int64
	m := NewMemory(1000, func(d int64) { told += d })
	big, small := m.Meter(Limits{}), m.Meter(Limits{})
	step := func(image *Meter, n int64, ok bool) {
		t.Helper()
		err := m.adjust(image, n)
		if (err == nil) != ok || err != nil && !errors.Is(err, ErrLimit) {
			t.Errorf("change by %d: %v", n, err)
		}
		if told != m.sum || m.sum != big.held+small.held {
			t.Errorf("notified of %d bytes; the sum is %d, held are %d and %d", told, m.sum, big.held, small.held)
		}
	}
	step(big, 900, true)
	step(big, 101, false)   // the only image may hold everything
	step(small, 300, true)  // below its share of 500, whatever the other holds
	step(big, 1, false)     // above its share
	step(small, 200, true)  // up to its share
	step(small, 100, false) // and not beyond
	step(big, -900, true)
	step(small, 400, true) // the only image again
	step(small, 101, false)
	step(small, -900, true)
	if m.sum != 0 || m.images != 0 {
		t.Errorf("%d bytes of %d images at the end", m.sum, m.images)
	}
}

// TestMemorySumIsBounded checks that many images that each grow to their share
// hold at most twice the limit together, and that one hostile image does not
// make images within their final share fail.
func TestMemorySumIsBounded(t *testing.T) {
	const limit, images = 1 << 20, 32
	var sum int64
	m := NewMemory(limit, func(d int64) { sum += d })
	for range images {
		image := m.Meter(Limits{})
		var err error
		for err == nil {
			err = m.adjust(image, 1<<10)
		}
		if !errors.Is(err, ErrLimit) {
			t.Fatal(err)
		}
	}
	if sum > 2*limit || sum < 2*limit-(2<<10) || sum != m.sum {
		t.Errorf("%d images hold %d bytes, the limit is %d", images, sum, limit)
	}

	m = NewMemory(limit, nil)
	if err := m.adjust(m.Meter(Limits{}), limit); err != nil {
		t.Fatal(err)
	}
	for i := range images - 1 {
		if err := m.adjust(m.Meter(Limits{}), limit/images); err != nil {
			t.Errorf("image %d within its share: %v", i, err)
		}
	}
}

// metadataArchives makes archives of n entries whose metadata the extraction
// keeps in memory.
var metadataArchives = map[string]func(n int) string{
	"directories": func(n int) string {
		return repeat(n, func(i int) string {
			return tartest.Block(tarfile.TypeDir, fmt.Sprintf("%08d/%050d", i, 0), "").With("")
		})
	},
	"whiteouts": func(n int) string {
		return repeat(n, func(i int) string { return tartest.File(fmt.Sprintf(".wh.%090d", i), "") })
	},
	"links": func(n int) string {
		return repeat(n, func(i int) string {
			return tartest.Block(tarfile.TypeHardLink, fmt.Sprintf("%08d", i), "").Put(tartest.LinkOff, fmt.Sprintf("nowhere/%080d", i)).With("")
		})
	},
	"attributes of directories": func(n int) string {
		return repeat(n, func(i int) string {
			return tartest.Records(tarfile.TypePax, "SCHILY.xattr.user.x", strings.Repeat("v", 400)) + tartest.Block(tarfile.TypeDir, fmt.Sprintf("%08d", i), "").With("")
		})
	},
}

func repeat(n int, one func(i int) string) string {
	var b strings.Builder
	for i := range n {
		b.WriteString(one(i))
	}
	return b.String() + tartest.End
}

func (x *tb) extractIn(ctx context.Context, m *Memory, data string, c *Checkpoints) (*Layer, error) {
	x.Helper()
	x.n++
	dir := x.root + fmt.Sprint("/memory", x.n)
	mkdir(x, dir)
	return Extract(ctx, strings.NewReader(data), dir, Options{Pool: x.pool, Meter: m.Meter(DefaultLimits()), Checkpoints: c})
}

// TestMetadataIsBounded checks that the memory for the metadata of an archive
// is bounded, and is returned.
func TestMetadataIsBounded(t *testing.T) {
	for name, make := range metadataArchives {
		t.Run(name, func(t *testing.T) {
			x := newTB(t)
			var sum, peak int64
			m := NewMemory(280<<10, func(d int64) { sum += d; peak = max(peak, sum) })
			l, err := x.extractIn(t.Context(), m, make(250), nil)
			if err != nil {
				t.Fatalf("250: %v", err)
			}
			if sum == 0 || sum > 280<<10 {
				t.Errorf("250 hold %d bytes", sum)
			}
			l.Release()
			l.Release()
			if sum != 0 {
				t.Errorf("%d bytes were not given back", sum)
			}
			_, err = x.extractIn(t.Context(), m, make(2200), nil)
			if !errors.Is(err, ErrLimit) || !strings.Contains(err.Error(), "limit Metadata") {
				t.Errorf("2200: %v", err)
			}
			if sum != 0 || peak > 280<<10 {
				t.Errorf("%d bytes after the failure, %d at most", sum, peak)
			}
		})
	}
}

// TestNamesWithoutMemory checks that an extraction without memory for its set
// of names continues, and saves no more states.
func TestNamesWithoutMemory(t *testing.T) {
	data := repeat(1200, func(i int) string { return tartest.File(fmt.Sprint("f", i), "") })
	for _, c := range []struct {
		limit, most int64
		want        bool
	}{{40 << 10, 0, true}, {16 << 10, 0, false}, {40 << 10, 10 << 10, false}} {
		x := newTB(t)
		late := false
		saved := 0
		l, err := x.extractIn(t.Context(), NewMemory(c.limit, nil), data, &Checkpoints{
			Due:  func(at int64) bool { return at/tarfile.BlockSize%100 == 0 },
			Save: func(at int64, _ []byte) { saved++; late = late || at > int64(len(data))*9/10 },
			Void: func() {}, Max: c.most,
		})
		if err != nil {
			t.Fatal(err)
		}
		if l.Entries != 1200 || late != c.want {
			t.Errorf("%+v: %d entries, %d states, saved late: %v", c, l.Entries, saved, late)
		}
	}
}

// TestSaveIsBounded checks that a layer with a large encoding is not saved.
func TestSaveIsBounded(t *testing.T) {
	x := newTB(t)
	for name, make := range metadataArchives {
		if name == "attributes of directories" {
			continue // they are on the disk
		}
		l, err := x.extractIn(t.Context(), NewMemory(-1, nil), make(300), nil)
		if err != nil {
			t.Fatal(err)
		}
		if name == "directories" { // implicit ones
			for i := range l.dirs.nodes {
				l.dirs.nodes[i].flags &^= dirExplicit
			}
		}
		if _, err := l.Save(15_000); !errors.Is(err, ErrTooLarge) {
			t.Errorf("%s: %v", name, err)
		}
		state, err := l.Save(90_000)
		if err != nil || len(state) > 90_000 {
			t.Errorf("%s: %d bytes, %v", name, len(state), err)
		}
		again, err := Load(l.Dir, state)
		if err != nil {
			t.Fatal(err)
		}
		if b, err := again.Save(0); err != nil || string(b) != string(state) {
			t.Errorf("%s: another state after Load: %v", name, err)
		}
	}
}

// TestSaveCountsWhiteoutDirs checks that the paths of the directories with
// whiteouts count towards the bound of an encoding.
func TestSaveCountsWhiteoutDirs(t *testing.T) {
	x := newTB(t)
	deep := strings.Repeat("d/", 40)
	data := repeat(200, func(i int) string { return tartest.File(fmt.Sprintf("%s%d/.wh.w", deep, i), "") })
	l, err := x.extractIn(t.Context(), NewMemory(-1, nil), data, nil)
	if err != nil {
		t.Fatal(err)
	}
	all, err := l.Save(0)
	if err != nil {
		t.Fatal(err)
	}
	for most := int64(1 << 10); most < int64(len(all)); most += 1 << 10 {
		if state, err := l.Save(most); !errors.Is(err, ErrTooLarge) {
			t.Fatalf("bound %d: %d bytes, %v", most, len(state), err)
		}
	}
}

func mkdir(t testing.TB, dir string) {
	t.Helper()
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
}
