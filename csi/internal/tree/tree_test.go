package tree

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestChild(t *testing.T) {
	long := strings.Repeat("n", MaxName)
	for _, c := range []struct {
		prefix, key string
		name        string
		kind        Kind
		ok          bool
	}{
		{"", "a", "a", File, true},
		{"", "a/", "a", Dir, true},
		{"", "a/b/c", "a", Dir, true},
		{"a/", "a/b", "b", File, true},
		{"a/", "a/b/", "b", Dir, true},
		{"a/", "a/", "", 0, false},     // the marker of the directory itself
		{"a/", "b/x", "", 0, false},    // elsewhere
		{"a/", "a//b", "", 0, false},   // empty component
		{"", "/a", "", 0, false},       // leading slash
		{"", "./a", "", 0, false},      // "."
		{"", "..", "", 0, false},       // ".."
		{"", "...", "...", File, true}, // an ordinary name
		{"", "a\x00b", "", 0, false},
		{"", long, long, File, true},
		{"", long + "x", "", 0, false},
		{"", "caf\xc3\xa9", "caf\xc3\xa9", File, true},
		{"", "\xff", "\xff", File, true}, // bytes are bytes
	} {
		name, kind, ok := Child(c.prefix, c.key)
		if name != c.name || kind != c.kind || ok != c.ok {
			t.Errorf("Child(%q, %q) = %q, %v, %v; want %q, %v, %v", c.prefix, c.key, name, kind, ok, c.name, c.kind, c.ok)
		}
	}
}

func TestKeyAndCleanPrefix(t *testing.T) {
	for _, c := range []struct {
		path string
		kind Kind
		key  string
		ok   bool
	}{
		{".", Dir, "p/", true},
		{".", File, "p/", false},
		{"a/b", File, "p/a/b", true},
		{"a/b", Dir, "p/a/b/", true},
		{"a//b", File, "", false},
		{"../x", File, "", false},
		{"", File, "", false},
	} {
		key, ok := Key("p/", c.path, c.kind)
		if ok != c.ok || (ok && key != c.key) {
			t.Errorf("Key(%q, %v) = %q, %v; want %q, %v", c.path, c.kind, key, ok, c.key, c.ok)
		}
	}
	if _, ok := Key("", strings.Repeat("a/", MaxKey), File); ok {
		t.Error("a key above the limit of S3 was accepted")
	}
	if p, ok := CleanPrefix("a"); p != "a/" || !ok {
		t.Errorf("CleanPrefix(a) = %q, %v", p, ok)
	}
	if _, ok := CleanPrefix("a\x00"); ok {
		t.Error("a NUL was accepted")
	}
}

func TestMergerShadowing(t *testing.T) {
	var got []string
	var m Merger[int]
	emit := func(name string, kind Kind, v int) { got = append(got, fmt.Sprintf("%s:%v:%d", name, kind, v)) }
	for i, e := range []struct {
		name string
		kind Kind
	}{{"a", File}, {"a-", File}, {"a-1", Dir}, {"a", Dir}, {"a", Dir}, {"b", File}, {"c", File}} {
		if err := m.Add(e.name, e.kind, i, emit); err != nil {
			t.Fatal(err)
		}
	}
	m.Flush(emit)
	want := "a-:file:1 a-1:dir:2 a:dir:3 b:file:5 c:file:6"
	if strings.Join(got, " ") != want {
		t.Errorf("got  %v\nwant %s", got, want)
	}
}

// TestMergerUnsorted: listings in any order, with common prefixes on every page, show each name once; a directory hides
// the file of its name unless it comes maxHeld files later.
func TestMergerUnsorted(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"b a c/", "c/ b a"},
		{"b a/ a b/ c", "a/ b/ c"},
		{"z/ a z/ b z/ a", "z/ a b"},
		{"a- a-1/ a b/ a/ a/", "a- a-1/ b/ a/"},
		{"a b/ a/ b a b/ a/", "a b/"}, // a was shown before anything was out of order
	} {
		var m Merger[int]
		var got []string
		emit := func(name string, kind Kind, _ int) {
			if kind == Dir {
				name += "/"
			}
			got = append(got, name)
		}
		for name := range strings.SplitSeq(c.in, " ") {
			kind := File
			if n, isDir := strings.CutSuffix(name, "/"); isDir {
				name, kind = n, Dir
			}
			if err := m.Add(name, kind, 0, emit); err != nil {
				t.Fatal(err)
			}
		}
		m.Flush(emit)
		if strings.Join(got, " ") != c.want {
			t.Errorf("%s: got %s, want %s", c.in, strings.Join(got, " "), c.want)
		}
	}
}

// TestMergerBounds: an unsorted listing has so many names at most (MaxUnsorted, fewer here), a sorted one any number, and neither holds more
// than a few files back.
func TestMergerBounds(t *testing.T) {
	add := func(m *Merger[int], n int, name func(i int) string) (shown int, err error) {
		emit := func(string, Kind, int) { shown++ }
		for i := range n {
			if err := m.Add(name(i), File, i, emit); err != nil {
				return shown, err
			}
			if m.jumble != nil && (len(m.jumble.files) > maxHeld || len(m.jumble.queue) > maxHeld) {
				t.Fatalf("%d files held", len(m.jumble.files))
			}
		}
		m.Flush(emit)
		return shown, nil
	}
	const most = 10_000
	limited := func() *Merger[int] { return &Merger[int]{seen: nameSet{most: most}} }
	up := func(i int) string { return fmt.Sprintf("%09d", i) }
	down := func(i int) string { return fmt.Sprintf("%09d", most+1-i) }
	sorted := limited()
	if n, err := add(sorted, most+10, up); n != most+10 || err != nil || sorted.seen.slots != nil {
		t.Errorf("sorted: %d shown, %v", n, err)
	}
	if n, err := add(limited(), most+1, down); !errors.Is(err, ErrOrder) {
		t.Errorf("unsorted: %d shown, %v, want ErrOrder", n, err)
	}
	full := limited()
	if n, err := add(full, most, down); n != most || err != nil || len(full.seen.slots) > 4*most {
		t.Errorf("unsorted up to the limit: %d shown, %v, %d slots", n, err, len(full.seen.slots))
	}
	if n, err := add(limited(), most+10, func(i int) string { return up(min(i, most+5-i%2)) }); !errors.Is(err, ErrOrder) {
		t.Errorf("unsorted after the limit: %d shown, %v, want ErrOrder", n, err)
	}
}

// model is the whole tree of a set of keys, made in the most obvious way: directories first, then files that no
// directory shadows.
func model(keys []string, prefix string) map[string]Kind {
	tree := map[string]Kind{}
	files := map[string]bool{}
	for _, key := range keys {
		rest, below := strings.CutPrefix(key, prefix)
		if !below {
			continue
		}
		path := ""
		components := strings.Split(rest, "/")
		for i, c := range components {
			if !ValidName(c) {
				break
			}
			path += "/" + c
			if i < len(components)-1 {
				tree[path] = Dir
			} else {
				files[path] = true
			}
		}
	}
	for path := range files {
		if tree[path] != Dir {
			tree[path] = File
		}
	}
	return tree
}

// list is what S3 answers to a LIST with delimiter "/": keys and common prefixes in byte order.
func list(keys []string, prefix string) []string {
	set := map[string]bool{}
	for _, key := range keys {
		rest, below := strings.CutPrefix(key, prefix)
		if !below {
			continue
		}
		if i := strings.IndexByte(rest, '/'); i >= 0 {
			key = prefix + rest[:i+1]
		}
		set[key] = true
	}
	return slices.Sorted(maps.Keys(set))
}

// walk makes the tree with Child and Merger, one listing per directory.
func walk(t *rapid.T, keys []string, prefix, path string, unsorted bool, mix func([]string) []string, out map[string]Kind) {
	var m Merger[string]
	if unsorted {
		m.Unsort()
	}
	var dirs []string
	emit := func(name string, kind Kind, key string) {
		p := path + "/" + name
		if _, twice := out[p]; twice {
			t.Fatalf("%q was listed twice", p)
		}
		out[p] = kind
		if kind == Dir {
			dirs = append(dirs, name)
		}
	}
	for _, key := range mix(list(keys, prefix)) {
		if name, kind, ok := Child(prefix, key); ok {
			if err := m.Add(name, kind, key, emit); err != nil {
				t.Fatal(err)
			}
		}
		if len(m.held) > MaxName {
			t.Fatalf("%d files held", len(m.held))
		}
	}
	m.Flush(emit)
	for _, d := range dirs {
		walk(t, keys, prefix+d+"/", path+"/"+d, unsorted, mix, out)
	}
}

// TestTreeMatchesModel: for any set of keys, walking by listings shows exactly the tree of the obvious model.
func TestTreeMatchesModel(t *testing.T) {
	key := rapid.StringOfN(rapid.SampledFrom([]rune("ab-./0\x00")), 1, 12, -1)
	rapid.Check(t, func(t *rapid.T) {
		keys := rapid.SliceOfDistinct(key, rapid.ID[string]).Draw(t, "keys")
		prefix, _ := CleanPrefix(rapid.SampledFrom([]string{"", "a", "a/b", "-"}).Draw(t, "prefix"))
		want := model(keys, prefix)
		mixes := map[string]func([]string) []string{
			"sorted": func(l []string) []string { return l },
			// As directory buckets: any order, and prefixes again on later pages.
			"mixed": func(l []string) []string {
				return rapid.Permutation(slices.Concat(l, slices.DeleteFunc(slices.Clone(l), func(key string) bool {
					return !strings.HasSuffix(key, "/")
				}))).Draw(t, "order")
			},
		}
		for how, mix := range mixes {
			got := map[string]Kind{}
			walk(t, keys, prefix, "", how == "mixed", mix, got)
			if !maps.Equal(got, want) {
				t.Fatalf("keys %q below %q, %s:\ngot  %v\nwant %v", keys, prefix, how, got, want)
			}
		}
		for path, kind := range want {
			k, ok := Key(prefix, path[1:], kind)
			if !ok {
				t.Fatalf("Key refuses the path %q that the tree shows", path)
			}
			exists := slices.Contains(keys, k)
			if kind == Dir {
				exists = slices.ContainsFunc(keys, func(key string) bool { return strings.HasPrefix(key, k) })
			}
			if !exists {
				t.Fatalf("path %q leads to key %q, which is not in the bucket", path, k)
			}
		}
	})
}

func Example() {
	var m Merger[struct{}]
	emit := func(name string, kind Kind, _ struct{}) { fmt.Println(name, kind) }
	for _, key := range []string{"data", "data-2024.csv", "data/", "readme"} { // one LIST with delimiter "/"
		if name, kind, ok := Child("", key); ok {
			_ = m.Add(name, kind, struct{}{}, emit)
		}
	}
	m.Flush(emit)
	// Output:
	// data-2024.csv file
	// data dir
	// readme file
}
