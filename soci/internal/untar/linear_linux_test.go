package untar

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/penstock/penstock/soci/internal/tarfile"
	"github.com/penstock/penstock/soci/internal/tarfile/tartest"
)

// TestAttributesCount checks that attributes are bounded, as entries are.
func TestAttributesCount(t *testing.T) {
	limits := DefaultLimits()
	limits.Entries = 100
	x := newTB(t)
	if _, err := x.extractBytes([]byte(tartest.AttributeHeaders(3, 60)), limits); !errors.Is(err, ErrLimit) || !strings.Contains(err.Error(), "limit Entries") {
		t.Errorf("three files of 60 attributes: %v", err)
	}
	limits.Attributes = 200
	x = newTB(t)
	if _, err := x.extractBytes([]byte(tartest.AttributeHeaders(1, 60)), limits); !errors.Is(err, ErrLimit) || !strings.Contains(err.Error(), "limit Attributes") {
		t.Errorf("60 attributes of 11 bytes: %v", err)
	}
}

// TestGlobalHeadersAddUp checks that the bound on attributes applies to the sum
// over all global headers.
func TestGlobalHeadersAddUp(t *testing.T) {
	var attrs, holes strings.Builder
	for i := range 40 {
		attrs.WriteString(tartest.Records(tarfile.TypePaxGlobal, fmt.Sprintf("SCHILY.xattr.user.%02d", i), strings.Repeat("v", 50_000)))
	}
	holes.WriteString(tartest.Records(tarfile.TypePaxGlobal, "GNU.sparse.offset", "0", "GNU.sparse.numbytes", ""))
	for what, c := range map[string]struct {
		in   string
		want error
	}{
		"attributes":      {attrs.String(), ErrLimit},
		"maps of nothing": {holes.String(), ErrFormat},
	} {
		x := newTB(t)
		if _, err := x.extractBytes([]byte(c.in+tartest.End), DefaultLimits()); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// TestNotesAreGroupedByKind checks that names in an archive do not create new
// kinds of notes.
func TestNotesAreGroupedByKind(t *testing.T) {
	var pairs []string
	for i := range 500 {
		pairs = append(pairs, fmt.Sprint("SCHILY.xattr.user.overlay.", i), "v", fmt.Sprint("SCHILY.xattr.none", i, ".x"), "v")
	}
	x := newTB(t)
	l, err := x.extractBytes([]byte(tartest.Records(tarfile.TypePax, pairs...)+tartest.File("f", "")+tartest.End), DefaultLimits())
	if err != nil {
		t.Fatal(err)
	}
	if notes := Notes(l); len(notes) > 3 || len(notes) < 2 || notes[0].Count != 500 {
		t.Errorf("%d warnings: %v", len(notes), notes)
	}
}

// counted counts the calls of Err. A long loop calls Err once in each step.
type counted struct {
	context.Context
	asked atomic.Int64
}

func (c *counted) Err() error {
	c.asked.Add(1)
	return c.Context.Err()
}

// TestForwardLinksAreLinear checks that a chain of hard links in the worst
// order is created in one pass. (A pass for each of a million links took
// hours.)
func TestForwardLinksAreLinear(t *testing.T) {
	steps := func(n int) int64 {
		x := newTB(t)
		ctx := &counted{Context: t.Context()}
		data := repeat(n, func(i int) string {
			return tartest.Block(tarfile.TypeHardLink, fmt.Sprintf("l%06d", i), "").Put(tartest.LinkOff, fmt.Sprintf("l%06d", i+1)).With("")
		})
		data = data[:len(data)-len(tartest.End)] + tartest.File(fmt.Sprintf("l%06d", n), "x") + tartest.End
		l, err := x.extractIn(ctx, NewMemory(-1, nil), data, nil)
		if err != nil || len(l.lower) > 0 {
			t.Fatalf("%v, %d links left", err, len(l.lower))
		}
		return ctx.asked.Load()
	}
	if few, many := steps(200), steps(2000); many > 12*few {
		t.Errorf("200 links take %d steps, 2000 take %d", few, many)
	}
}

// TestReplacedDirectoriesAreLinear checks that the cost of replacing a
// directory does not depend on the number of directories.
func TestReplacedDirectoriesAreLinear(t *testing.T) {
	d := newDirTable(nil)
	probes := 0
	for i := range 20_000 {
		name := fmt.Sprint("d", i%100)
		id, err := d.add(rootDir, name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := d.add(id, "below"); err != nil {
			t.Fatal(err)
		}
		probes = max(probes, d.slots)
		d.forget(id)
		if _, ok := d.find(name + "/below"); ok {
			t.Fatal("found below a directory that is gone")
		}
	}
	// One slot for each directory that exists, or has existed since the index
	// last grew.
	if live := len(d.index); live > 1<<16 {
		t.Errorf("an index of %d slots", live)
	}
	d.markDead()
	for i := range d.nodes[1:] {
		if !d.isDead(dirID(i + 1)) {
			t.Fatalf("node %d of %q lives", i+1, d.path(dirID(i+1)))
		}
	}
}

// TestLongLoopsEnd checks that every loop of an extraction or merge ends with
// its context.
func TestLongLoopsEnd(t *testing.T) {
	for name, make := range metadataArchives {
		x := newTB(t)
		m := NewMemory(-1, nil)
		whole := &counted{Context: t.Context()}
		l, err := x.extractIn(whole, m, make(90), nil)
		if err != nil {
			t.Fatal(err)
		}
		l.Release()
		all := whole.asked.Load()
		if all < 90 {
			t.Errorf("%s: an extraction of 90 entries looks at its context %d times", name, all)
		}
		for _, at := range []int64{all / 4, all / 2, all - 10} {
			ctx, cancel := context.WithCancelCause(t.Context())
			ends := &ending{Context: ctx, left: at, cancel: cancel}
			if _, err := x.extractIn(ends, m, make(90), nil); !errors.Is(err, errEnded) {
				t.Errorf("%s: ended at step %d of %d: %v", name, at, all, err)
			}
			cancel(nil)
		}
		if m.sum != 0 {
			t.Errorf("%s: %d bytes were not given back", name, m.sum)
		}
	}
}

// ending is a context that is cancelled after a number of calls of Err.
type ending struct {
	context.Context
	left   int64
	cancel context.CancelCauseFunc
}

var errEnded = errors.New("ended")

func (e *ending) Err() error {
	if e.left--; e.left == 0 {
		e.cancel(errEnded)
	}
	return e.Context.Err()
}
