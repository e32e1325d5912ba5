package untar

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
)

// allocated returns the bytes that fn allocates.
func allocated(fn func()) int64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	fn()
	runtime.ReadMemStats(&after)
	return int64(after.TotalAlloc - before.TotalAlloc)
}

// attrHeaders is extended headers with n attributes each, and a file behind each one.
func attrHeaders(headers, n int) string {
	var pairs []string
	for i := range n {
		pairs = append(pairs, fmt.Sprintf("SCHILY.xattr.user.%05d", i), "v")
	}
	one := records(typePax, pairs...)
	var out strings.Builder
	for i := range headers {
		out.WriteString(one + rawFile(fmt.Sprint("f", i), ""))
	}
	return out.String() + theEnd
}

// TestAttributesAreLinear: an extended header costs a few times its bytes, however many
// attributes it has. (With a search and a copy for each of them 40,000 took ten seconds.)
func TestAttributesAreLinear(t *testing.T) {
	for _, c := range []struct {
		name       string
		headers, n int
		want       error
	}{
		{"40,000 attributes", 1, 40_000, ErrLimit},
		{"as many as Linux can list", 1, 5900, nil},
		{"10 MB of headers", 60, 5900, nil},
	} {
		data := []byte(attrHeaders(c.headers, c.n))
		var entries int
		var err error
		got := allocated(func() { entries, err = readHeaders(t.Context(), data) })
		if !errors.Is(err, c.want) || err == nil && entries != c.headers {
			t.Errorf("%s: %d entries, %v", c.name, entries, err)
		}
		// The stream and its copy, the text of a header twice, and a list of attributes that
		// grows with a map beside it.
		if most := 20 * int64(len(data)); got > most {
			t.Errorf("%s: %d bytes allocated for an archive of %d", c.name, got, len(data))
		}
	}
}

// TestAttributesCount: attributes are work, and so are bounded as entries are.
func TestAttributesCount(t *testing.T) {
	limits := DefaultLimits()
	limits.Entries = 100
	x := newTB(t)
	if _, err := x.extractBytes([]byte(attrHeaders(3, 60)), limits); !errors.Is(err, ErrLimit) || !strings.Contains(err.Error(), "limit Entries") {
		t.Errorf("three files of 60 attributes: %v", err)
	}
	limits.Attributes = 200
	x = newTB(t)
	if _, err := x.extractBytes([]byte(attrHeaders(1, 60)), limits); !errors.Is(err, ErrLimit) || !strings.Contains(err.Error(), "limit Attributes") {
		t.Errorf("60 attributes of 11 bytes: %v", err)
	}
}

// TestGlobalHeadersAddUp: what global headers leave for all entries is bounded in all.
func TestGlobalHeadersAddUp(t *testing.T) {
	var attrs, holes strings.Builder
	for i := range 40 {
		attrs.WriteString(records(typePaxGlobal, fmt.Sprintf("SCHILY.xattr.user.%02d", i), strings.Repeat("v", 50_000)))
	}
	holes.WriteString(records(typePaxGlobal, "GNU.sparse.offset", "0", "GNU.sparse.numbytes", ""))
	for what, c := range map[string]struct {
		in   string
		want error
	}{
		"attributes":      {attrs.String(), ErrLimit},
		"maps of nothing": {holes.String(), ErrFormat},
	} {
		x := newTB(t)
		if _, err := x.extractBytes([]byte(c.in+theEnd), DefaultLimits()); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// TestWarningsComeByKind: names that an archive chose make no kinds of warnings.
func TestWarningsComeByKind(t *testing.T) {
	var pairs []string
	for i := range 500 {
		pairs = append(pairs, fmt.Sprint("SCHILY.xattr.user.overlay.", i), "v", fmt.Sprint("SCHILY.xattr.none", i, ".x"), "v")
	}
	x := newTB(t)
	l, err := x.extractBytes([]byte(records(typePax, pairs...)+rawFile("f", "")+theEnd), DefaultLimits())
	if err != nil {
		t.Fatal(err)
	}
	if notes := Notes(l); len(notes) > 3 || len(notes) < 2 || notes[0].Count != 500 {
		t.Errorf("%d warnings: %v", len(notes), notes)
	}
}
