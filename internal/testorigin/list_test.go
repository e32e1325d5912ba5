package testorigin

import (
	"slices"
	"sort"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// model returns all items of a listing in order, by the simplest possible code.
func model(keys []string, q listQuery, after string) []item {
	var out []item
	for _, k := range keys {
		if !strings.HasPrefix(k, q.prefix) {
			continue
		}
		it := item{key: k}
		if q.delimiter != "" {
			if head, _, ok := strings.Cut(k[len(q.prefix):], q.delimiter); ok {
				it = item{q.prefix + head + q.delimiter, true}
			}
		}
		if it.key > after && !slices.Contains(out, it) {
			out = append(out, it)
		}
	}
	return out
}

// TestPagesAgainstModel lists random keys in pages of random sizes. The joined
// pages must equal the model's listing.
func TestPagesAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		keys := rapid.SliceOfDistinct(rapid.StringMatching(`[ab/]{1,5}`), func(s string) string { return s }).Draw(t, "keys")
		sort.Strings(keys)
		q := listQuery{
			prefix:    rapid.StringMatching(`[ab/]{0,2}`).Draw(t, "prefix"),
			delimiter: rapid.SampledFrom([]string{"", "/", "a", "//"}).Draw(t, "delimiter"),
			max:       rapid.IntRange(1, 4).Draw(t, "max"),
		}
		after := rapid.StringMatching(`[ab/]{0,3}`).Draw(t, "after")
		want := model(keys, q, after)
		var got []item
		for pages := 0; ; pages++ {
			items, more := q.page(keys, after)
			got = append(got, items...)
			if len(items) > q.max || more && len(items) < q.max || pages > len(keys) {
				t.Fatalf("page %d has %d items, more %v", pages, len(items), more)
			}
			if !more {
				break
			}
			var ok bool
			if after, ok = parseToken(makeToken(items[len(items)-1].key)); !ok {
				t.Fatal("parseToken does not return the text given to makeToken")
			}
		}
		if !slices.Equal(got, want) {
			t.Fatalf("%v, want %v", got, want)
		}
	})
}
