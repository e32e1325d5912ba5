package s3stream

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// TestItems compares the item numbers with a walk over everything.
func TestItems(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &manifest{BlockBytes: rapid.Int64Range(1, 10).Draw(t, "block")}
		for i := range rapid.IntRange(1, 6).Draw(t, "objects") {
			m.Objects = append(m.Objects, Object{Size: rapid.Int64Range(0, 35).Draw(t, fmt.Sprint(i))})
		}
		it := newItems(m)
		var seq uint64
		check := func(want place) {
			if got := it.at(seq); got != want {
				t.Fatalf("item %d is %+v, want %+v", seq, got, want)
			}
			seq++
		}
		for i, o := range m.Objects {
			for off := int64(0); off < o.Size; off += m.BlockBytes {
				check(place{object: i, off: off, n: min(m.BlockBytes, o.Size-off)})
			}
			check(place{object: i, off: o.Size, end: true})
		}
		if it.total() != seq {
			t.Fatalf("%d items, want %d", it.total(), seq)
		}
	})
}

func TestManifestCheck(t *testing.T) {
	big := Object{Bucket: "b", Key: "k", Size: maxTotal}
	for name, m := range map[string]*manifest{
		"block too small": {BlockBytes: 1},
		"block too large": {BlockBytes: MaxBlockBytes + 1},
		"negative size":   {BlockBytes: MinBlockBytes, Objects: []Object{{Size: -1}}},
		"too much":        {BlockBytes: MinBlockBytes, Objects: []Object{big, {Size: 1}}},
		"long key":        {BlockBytes: MinBlockBytes, Objects: []Object{{Key: strings.Repeat("k", maxKey+1)}}},
		"too many":        {BlockBytes: MinBlockBytes, Objects: make([]Object, MaxObjects+1)},
	} {
		if m.check() == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if err := (&manifest{BlockBytes: MinBlockBytes, Objects: []Object{big}}).check(); err != nil {
		t.Error(err)
	}
}

func TestCheckNames(t *testing.T) {
	for _, c := range []struct {
		names []string
		ok    bool
	}{
		{[]string{"a", "b/c", "b/d"}, true},
		{[]string{"a", "a-b", "a.b", "ab/c"}, true},
		{[]string{"..a", "a..", "...", "x/..y"}, true},
		{[]string{""}, false},
		{[]string{"a/"}, false},
		{[]string{"/a"}, false},
		{[]string{"../a"}, false},
		{[]string{"a/../b"}, false},
		{[]string{"a//b"}, false},
		{[]string{"./a"}, false},
		{[]string{".."}, false},
		{[]string{"a\x00b"}, false},
		{[]string{"a", "a"}, false},
		{[]string{"a", "a-b", "a/b"}, false},
		{[]string{"d/" + tempPrefix + "x"}, false},
	} {
		m := &manifest{}
		for _, n := range c.names {
			m.Objects = append(m.Objects, Object{Name: n})
		}
		if err := m.checkNames(); (err == nil) != c.ok {
			t.Errorf("%q: %v", c.names, err)
		}
	}
}

func TestParseURI(t *testing.T) {
	const arn = "arn:aws:s3:us-east-1:123456789012:accesspoint/ap"
	for in, want := range map[string]target{
		"s3://b/k":           {"b", "k", false},
		"s3://b/a/b%20 c?d":  {"b", "a/b%20 c?d", false},
		"s3://b/p/":          {"b", "p/", true},
		"s3://b":             {"b", "", true},
		"s3://b/":            {"b", "", true},
		"s3://b//k":          {"b", "/k", false},
		"s3://" + arn + "/k": {arn, "k", false},
		"s3://" + arn:        {arn, "", true},
	} {
		if got, err := parseURI(in); err != nil || got != want {
			t.Errorf("%s: %+v, %v; want %+v", in, got, err, want)
		}
	}
	for _, in := range []string{"", "b/k", "http://b/k", "s3:///k", "s3://", "S3://b/k", "s3://b/" + strings.Repeat("k", maxKey+1)} {
		if _, err := parseURI(in); err == nil {
			t.Errorf("%q was accepted", in)
		}
	}
}

// TestDivide: what the ring, the read stream and those ahead may hold, with
// the part at each end of the ring, stays within the budget, so that the
// engine can always get its next part.
func TestDivide(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		block := rapid.Int64Range(MinBlockBytes, MaxBlockBytes).Draw(t, "block")
		limit := rapid.Int64Range(minMemory(block), 1<<40).Draw(t, "limit")
		m := divide(limit, block)
		if m.part%block != 0 || m.part < block {
			t.Fatalf("%+v: a part is not a number of blocks", m)
		}
		if m.slots < minSlots {
			t.Fatalf("%+v: the ring is too small", m)
		}
		if used := int64(m.slots)*cost(block) + m.window + m.ahead + 2*cost(m.part); used > limit {
			t.Fatalf("%+v: %d of %d bytes", m, used, limit)
		}
		if workerSlots(limit, block) < minSlots {
			t.Fatalf("a worker with %d bytes has too small a ring", limit)
		}
	})
}

func TestEncodeObjects(t *testing.T) {
	var objects []Object
	for i := range 5000 {
		objects = append(objects, Object{Bucket: "b", Key: strings.Repeat("\x01", i%maxKey), Size: int64(i)})
	}
	pieces, err := encodeObjects(objects)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, p := range pieces {
		if len(p) > pieceBytes*2 {
			t.Errorf("a piece of %d bytes", len(p))
		}
		var m objectsMsg
		if err := json.Unmarshal(p, &m); err != nil {
			t.Fatal(err)
		}
		for _, o := range m.Objects {
			if o.object() != objects[n] {
				t.Fatalf("object %d changed", n)
			}
			n++
		}
	}
	if n != len(objects) {
		t.Errorf("%d of %d objects", n, len(objects))
	}
}

// FuzzStart: whatever a leader sends, a worker refuses it or can work with it.
func FuzzStart(f *testing.F) {
	f.Add([]byte(`{"job":"j","node":1,"blockBytes":65536,"objects":1,"report":1,"stall":1000000000,"shape":"chain","members":[{"name":"a","addr":"h:1"}]}`),
		[]byte(`{"objects":[{"bucket":"b","key":"k","name":"k","size":100000,"checksum":"CRC32C:00000000"}]}`))
	f.Add([]byte(`{}`), []byte(`{"objects":[{"size":-1}]}`))
	f.Fuzz(func(t *testing.T, start, objects []byte) {
		var s startMsg
		var o objectsMsg
		if json.Unmarshal(start, &s) != nil || json.Unmarshal(objects, &o) != nil || s.check() != nil {
			return
		}
		m := &manifest{Job: s.Job, BlockBytes: s.BlockBytes}
		if m.add(o.Objects, s.Objects, minManifest) != nil || len(m.Objects) < s.Objects || m.check() != nil {
			return
		}
		_ = m.checkNames()
		it := newItems(m)
		if it.total() < uint64(len(m.Objects)) {
			t.Fatalf("%d items for %d objects", it.total(), len(m.Objects))
		}
		for _, seq := range []uint64{0, it.total() / 2, it.total() - 1} {
			p := it.at(seq)
			if p.n < 0 || p.n > m.BlockBytes || p.off < 0 || p.off+p.n > m.Objects[p.object].Size {
				t.Fatalf("item %d is at %+v", seq, p)
			}
		}
	})
}

// TestLeaderIsNotBelieved: what a leader announces is bounded before it takes memory, and a job of nothing is refused.
func TestLeaderIsNotBelieved(t *testing.T) {
	long := strings.Repeat("x", maxBucket+1)
	for name, o := range map[string]Object{
		"ETag":     {Bucket: "b", Key: "k", Name: "k", ETag: long},
		"version":  {Bucket: "b", Key: "k", Name: "k", VersionID: long},
		"checksum": {Bucket: "b", Key: "k", Name: "k", Checksum: long},
		"bucket":   {Bucket: long, Key: "k", Name: "k"},
		"key":      {Bucket: "b", Key: long, Name: "k"},
		"name":     {Bucket: "b", Key: "k", Name: long},
	} {
		m := &manifest{}
		if err := m.add([]objectMsg{{Object: o}}, 1, minManifest); err == nil || len(m.Objects) > 0 {
			t.Errorf("a %s of %d bytes was taken", name, len(long))
		}
	}
	// Many allowed objects stop at the limit, which is the worker's memory.
	m := &manifest{}
	piece := []objectMsg{newObjectMsg(Object{Bucket: "b", Key: strings.Repeat("k", maxKey), Name: "n"})}
	limit := maxManifest(1)
	var err error
	for err == nil && len(m.Objects) < MaxObjects {
		err = m.add(piece, MaxObjects, limit)
	}
	if err == nil || !strings.Contains(err.Error(), "more memory") || int64(len(m.Objects))*maxKey > limit {
		t.Errorf("%d objects: %v", len(m.Objects), err)
	}
	s := startMsg{Job: "j", Node: 1, Members: []memberMsg{{Name: "a", Addr: "h:1"}}, BlockBytes: MinBlockBytes, Report: 1, Stall: minStall, Shape: "chain"}
	if err := s.check(); err == nil || !strings.Contains(err.Error(), "0 objects") {
		t.Errorf("a job of nothing: %v", err)
	}
}
