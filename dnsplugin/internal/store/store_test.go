package store

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"
	"time"
	"unsafe"

	"github.com/miekg/dns"
	"pgregory.net/rapid"

	"github.com/penstock/penstock/dnsplugin/internal/wire"
)

// answer packs a small answer that carries id in its address, so that a test
// notices the entry of another key.
func answer(t testing.TB, id uint32, padding int) *wire.Answer {
	t.Helper()
	return answerTo(t, int(id), id, padding)
}

// answerTo returns the answer with id to the question of key i.
func answerTo(t testing.TB, i int, id uint32, padding int) *wire.Answer {
	t.Helper()
	m := new(dns.Msg)
	m.SetQuestion(fmt.Sprintf("Key-%d.example.org.", i), dns.TypeA)
	m.Response = true
	ip := binary.BigEndian.AppendUint32(nil, id)
	m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: "example.org.", Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60}, A: ip}}
	for ; padding > 0; padding -= 200 {
		m.Answer = append(m.Answer, &dns.NULL{Hdr: dns.RR_Header{Name: ".", Rrtype: dns.TypeNULL, Class: dns.ClassINET}, Data: string(make([]byte, min(padding, 200)))})
	}
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	a, _, err := wire.NewAnswer(b)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func idOf(e *Entry) uint32 {
	a := e.Answer()
	return binary.BigEndian.Uint32(a.Msg()[a.TTLOffset(0)+6:])
}

func key(i int) []byte {
	label := fmt.Sprintf("key-%d", i)
	return wire.AppendKey(nil, fmt.Appendf(nil, "%c%s\aexample\x03org\x00", len(label), label), dns.TypeA, dns.ClassINET, false, false)
}

func put(t testing.TB, s *Store, i int, now Instant) int {
	t.Helper()
	_, evicted := s.Put(s.Hash(key(i)), key(i), NewRecord(answer(t, uint32(i), 0), now, 60, 0), now)
	return evicted
}

func get(s *Store, i int, now Instant) *Entry { return s.Get(s.Hash(key(i)), key(i), now) }

// Eviction moves an answer together with the bytes that follow it.
func TestWildcardAndErrorsStayWithTheAnswer(t *testing.T) {
	s := New(Options{Bytes: MinBytes})
	moved := false
	var first *Entry
	for i := range 20_000 {
		r := NewRecord(answer(t, uint32(i), 0), 0, 60, 0)
		r.Wildcard, r.EDE = fmt.Sprintf("*.%d", i), fmt.Appendf(nil, "error %d", i)
		if i%3 == 0 {
			r.Wildcard = ""
		}
		if i%5 == 0 {
			r.EDE = nil
		}
		s.Put(s.Hash(key(i)), key(i), r, 0)
		e := get(s, 7, 1) // it is hit often, so it stays and moves
		if first == nil {
			first = e
		}
		moved = moved || e != first
	}
	if e := get(s, 7, 1); e == nil || !moved {
		t.Fatal("the entry in use has gone, or was not moved")
	}
	s.Range(func(_ []byte, e *Entry) bool {
		i := idOf(e)
		wildcard, ede := fmt.Sprintf("*.%d", i), fmt.Sprintf("error %d", i)
		if i%3 == 0 {
			wildcard = ""
		}
		if i%5 == 0 {
			ede = ""
		}
		if e.Wildcard() != wildcard || string(e.EDE()) != ede {
			t.Errorf("%d: %q, %q", i, e.Wildcard(), e.EDE())
		}
		return true
	})
}

func TestGetReturnsWhatWasPut(t *testing.T) {
	s := New(Options{})
	for i := range 1000 {
		if n := put(t, s, i, 0); n != 0 {
			t.Fatalf("evicted %d", n)
		}
	}
	for i := range 1000 {
		if e := get(s, i, 1); e == nil || idOf(e) != uint32(i) {
			t.Fatalf("key %d: %v", i, e)
		}
	}
	if get(s, 1000, 1) != nil || s.Len() != 1000 {
		t.Fatal("an entry that was never put, or lost ones")
	}
	if !s.Delete(s.Hash(key(7)), key(7)) || s.Delete(s.Hash(key(7)), key(7)) || get(s, 7, 1) != nil || s.Len() != 999 {
		t.Fatal("delete")
	}
}

// The steps of a batch return the same as Get: for a tag of another key, for a
// dead entry, and if there is no entry.
func TestStepsOfABatchFindWhatGetFinds(t *testing.T) {
	s := New(Options{Bytes: 4 << 20})
	const n = 8000
	for i := range n {
		put(t, s, i, Instant(i)*Instant(time.Millisecond))
	}
	found := 0
	for i := range n + 1000 {
		k := key(i)
		h := s.Hash(k)
		now := Instant(62 * time.Second) // the first 2,000 are dead
		s.Touch(h)
		e := s.Likely(h)
		if e != nil {
			e.Touch()
			e = s.Take(e, k, now)
		}
		if want := s.Get(h, k, now); e != want {
			// Another key with the same tag is before it. That is rare, and the
			// caller uses Get then.
			if e != nil {
				t.Fatalf("key %d: another entry", i)
			}
			continue
		}
		if e != nil {
			found++
			if idOf(e) != uint32(i) {
				t.Fatalf("key %d has the answer of %d", i, idOf(e))
			}
		}
	}
	if found < 5900 || found > 6000 {
		t.Errorf("%d found", found)
	}
	if n := testing.AllocsPerRun(100, func() { s.Take(s.Likely(s.Hash(key7)), key7, 0).Touch() }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

var key7 = key(7)

func TestDeadEntryIsNotReturned(t *testing.T) {
	s := New(Options{})
	e, _ := s.Put(s.Hash(key(1)), key(1), NewRecord(answer(t, 1, 0), 1000, 5, 3*time.Second), 1000)
	last := Instant(1000 + 8*time.Second - 1)
	if got := s.Get(s.Hash(key(1)), key(1), last); got != e || got.Left(last) != -2 {
		t.Fatal("stale entry must be returned until it is dead")
	}
	if s.Get(s.Hash(key(1)), key(1), last+1) != nil {
		t.Fatal("dead entry returned")
	}
}

// Of hostile keys with one hash, few are kept, and no answer is wrong.
func TestCollisionsNeverMixUpAnswers(t *testing.T) {
	s := New(Options{Bytes: MinBytes})
	const hash = 42
	kept := func(n int) (found int) {
		for i := range n {
			if e := s.Get(hash, key(i), 1); e != nil {
				found++
				if idOf(e) != uint32(i) {
					t.Fatalf("key %d has the answer of %d", i, idOf(e))
				}
			}
		}
		return found
	}
	for i := range 500 {
		s.Put(hash, key(i), NewRecord(answer(t, uint32(i), 0), 0, 60, 0), 0)
	}
	if n := kept(501); n != 2*ways || s.Len() != 2*ways {
		t.Fatalf("%d entries of one hash, %d in all", n, s.Len())
	}
	for i := 0; i < 500; i += 2 {
		s.Delete(hash, key(i))
		if s.Get(hash, key(i), 1) != nil {
			t.Fatalf("deleted key %d is there", i)
		}
	}
	if n := kept(500); n != s.Len() {
		t.Fatalf("%d found, %d counted", n, s.Len())
	}
}

func TestBoundedInBytes(t *testing.T) {
	for _, padding := range []int{0, 500, 9000} {
		s := New(Options{Bytes: 2 << 20})
		evicted := 0
		for i := range 20000 * 500 / (500 + padding) {
			e := NewRecord(answer(t, uint32(i), padding), 0, 60, 0)
			_, n := s.Put(s.Hash(key(i)), key(i), e, 0)
			evicted += n
			if i%64 == 0 && s.Bytes() > 2<<20 {
				t.Fatalf("%d bytes", s.Bytes())
			}
		}
		if evicted == 0 || s.Bytes() < 2<<20*8/10 {
			t.Errorf("padding %d: evicted %d, %d bytes in %d entries", padding, evicted, s.Bytes(), s.Len())
		}
	}
}

// A million answers of a cluster's mix, three in five of them NXDOMAIN with
// their SOA, fit into 250 MB, and the heap grows by no more than the store
// accounts for.
func TestAMillionEntries(t *testing.T) {
	n := 1000000
	if testing.Short() {
		n = 100000
	}
	s := New(Options{Bytes: int64(n) * 245})
	before := heap()
	bare := s.Bytes()
	kept := fillMix(t, s, n)
	grown := int64(heap()-before) + bare
	t.Logf("%d entries, %d bytes each on the heap with the table, %d charged", kept, grown/int64(kept), s.Bytes()/int64(kept))
	if kept < n*98/100 {
		t.Errorf("%d of %d are left in %d bytes each", kept, n, s.Bytes()/int64(kept))
	}
	if grown > int64(n)*250 {
		t.Errorf("%d bytes for %d entries", grown, n)
	}
	runtime.KeepAlive(s)
}

// fillMix stores n answers and returns the number of entries.
func fillMix(t testing.TB, s *Store, n int) int {
	t.Helper()
	var kb [wire.MaxKeyLen]byte
	// One packed message for each kind; the number in its name is overwritten.
	var kinds [2][]byte
	for k := range kinds {
		m := new(dns.Msg)
		m.SetQuestion("svc-0000000.ns-042.svc.cluster.local.", dns.TypeA)
		m.Response, m.Compress = true, true
		if k == 0 {
			m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: m.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 30}, A: []byte{10, 0, 0, 1}}}
		} else {
			m.SetQuestion("svc-0000000.ns-042.svc.cluster.local.svc.cluster.local.", dns.TypeA)
			m.Response, m.Rcode = true, dns.RcodeNameError
			m.Ns = []dns.RR{&dns.SOA{Hdr: dns.RR_Header{Name: "cluster.local.", Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: 30}, Ns: "ns.dns.cluster.local.", Mbox: "hostmaster.cluster.local.", Minttl: 30}}
		}
		b, err := m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		kinds[k] = b
	}
	for i := range n {
		b := kinds[min(1, i%5/2)]
		copy(b[wire.HeaderLen+5:], fmt.Sprintf("%07d", i))
		a, _, err := wire.NewAnswer(b)
		if err != nil {
			t.Fatal(err)
		}
		q := a.Question()
		k := wire.AppendKey(kb[:0], q[:len(q)-4], dns.TypeA, dns.ClassINET, false, false)
		s.Put(s.Hash(k), k, NewRecord(a, 0, 60, 0), 0)
	}
	return s.Len()
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func TestBoundedInEntries(t *testing.T) {
	s := New(Options{Entries: 1024})
	for i := range 5000 {
		put(t, s, i, 0)
	}
	if s.Len() != 1024 {
		t.Errorf("%d entries", s.Len())
	}
}

func TestTooLargeEntryReplacesNothingButItsOwnKey(t *testing.T) {
	s := New(Options{Bytes: MinBytes})
	s.shards[0].maxBytes = 8 * int64(s.shards[0].segmentWords) / 2
	s.shards[0].segmentWords /= 8
	put(t, s, 1, 0)
	put(t, s, 2, 0)
	if e, n := s.Put(s.Hash(key(1)), key(1), NewRecord(answer(t, 1, 8000), 0, 60, 0), 0); n != 0 || e != nil {
		t.Errorf("evicted %d", n)
	}
	if get(s, 1, 0) != nil || get(s, 2, 0) == nil {
		t.Error("the superseded entry stays, or another one went")
	}
}

// A scan of names that are asked for once does not evict names that are asked
// for again.
func TestVisitedEntriesSurviveAScan(t *testing.T) {
	s := New(Options{Entries: 1024})
	for i := range 500 {
		put(t, s, i, 0)
	}
	for round := range 20 {
		for i := range 500 {
			get(s, i, 0)
		}
		for i := range 400 {
			put(t, s, 10000+round*400+i, 0)
		}
	}
	kept := 0
	for i := range 500 {
		if get(s, i, 0) != nil {
			kept++
		}
	}
	if kept != 500 {
		t.Errorf("%d of 500 popular entries survived", kept)
	}
}

func TestHitAllocatesAndWritesNothing(t *testing.T) {
	s := New(Options{})
	put(t, s, 1, 0)
	k := key(1)
	get(s, 1, 0) // counts a visit
	for range maxVisits {
		get(s, 1, 0)
	}
	n := get(s, 1, 0)
	before := *(*[entrySize]byte)(unsafe.Pointer(n))
	if allocs := testing.AllocsPerRun(100, func() {
		if s.Get(s.Hash(k), k, 1) == nil {
			t.Fatal("miss")
		}
	}); allocs != 0 {
		t.Errorf("%v allocations per hit", allocs)
	}
	if before != *(*[entrySize]byte)(unsafe.Pointer(n)) {
		t.Error("a repeated hit wrote to the node")
	}
}

func TestShardsDoNotShareCacheLines(t *testing.T) {
	if size := unsafe.Sizeof(shard{}); size%128 != 0 {
		t.Errorf("a shard has %d bytes, not a multiple of 128", size)
	}
}

func TestOptions(t *testing.T) {
	for _, o := range []Options{{Bytes: MinBytes - 1}, {Bytes: -1}, {Entries: -1}} {
		if o.Validate() == nil {
			t.Errorf("%+v is valid", o)
		}
	}
	for _, o := range []Options{{}, {Bytes: MinBytes}, {Bytes: 5 << 30, Entries: 3}, {Entries: 1}, {Bytes: 3 << 20, Entries: 1000000}} {
		s := New(o)
		for i := range 50 {
			put(t, s, i, 0)
		}
		if s.Len() == 0 || (o.Entries > 0 && s.Len() > o.Entries) {
			t.Errorf("%+v: %d entries", o, s.Len())
		}
	}
}

// TestAgainstModel compares with a map that never evicts. The store returns the
// latest live answer of a key or none, and its accounts are correct.
func TestAgainstModel(t *testing.T) {
	tb := t
	rapid.Check(t, func(t *rapid.T) {
		opts := Options{Bytes: MinBytes, Entries: rapid.IntRange(0, 12).Draw(t, "entries")}
		s := New(opts)
		if rapid.Bool().Draw(t, "tight") {
			s.shards[0].maxBytes, s.shards[0].segmentWords = 8<<10, 128
		}
		model := map[int]uint32{}
		ids := uint32(0)
		now := Instant(0)
		evictable := false
		t.Repeat(map[string]func(*rapid.T){
			"put": func(t *rapid.T) {
				i := rapid.IntRange(0, 15).Draw(t, "key")
				ids++
				r := NewRecord(answerTo(tb, i, ids, rapid.IntRange(0, 3).Draw(t, "size")*100), now,
					uint32(rapid.IntRange(1, 10).Draw(t, "ttl")), time.Duration(rapid.IntRange(0, 5).Draw(t, "grace"))*time.Second)
				s.Put(s.Hash(key(i)), key(i), r, now)
				model[i] = ids
				evictable = true
			},
			"get": func(t *rapid.T) {
				i := rapid.IntRange(0, 15).Draw(t, "key")
				got, want := s.Get(s.Hash(key(i)), key(i), now), model[i]
				if got != nil && idOf(got) != want {
					t.Fatalf("key %d: an entry that is not the latest", i)
				}
				if got != nil && (got.Dead <= now || got.Left(now) <= -5-1) {
					t.Fatalf("key %d: dead entry", i)
				}
			},
			"delete": func(t *rapid.T) {
				i := rapid.IntRange(0, 15).Draw(t, "key")
				s.Delete(s.Hash(key(i)), key(i))
				delete(model, i)
			},
			"wait": func(t *rapid.T) {
				now += Instant(rapid.Int64Range(0, int64(4*time.Second)).Draw(t, "d"))
			},
			"": func(t *rapid.T) {
				check(t, s)
				if opts.Entries > 0 && s.Len() > opts.Entries {
					t.Fatalf("%d entries of %d", s.Len(), opts.Entries)
				}
				if !evictable && s.Len() != 0 {
					t.Fatal("entries out of nothing")
				}
			},
		})
	})
}

// check verifies that every slot leads to an entry with its tag, in one of the
// two buckets of the key, and that the sums are correct.
func check(t interface{ Fatalf(string, ...any) }, s *Store) {
	for i := range s.shards {
		sh := &s.shards[i]
		sh.mu.Lock()
		seen, bytes := int64(0), int64(0)
		for _, q := range []*queue{&sh.small, &sh.main} {
			sum := int64(0)
			for _, g := range q.segments {
				sum += g.size()
				if g.cursor > g.used || g.used > len(g.words) || sh.ring[g.seq&uint32(len(sh.ring)-1)].Load() != g {
					t.Fatalf("segment %d: cursor %d, used %d of %d", g.seq, g.cursor, g.used, len(g.words))
				}
			}
			if sum != q.bytes {
				t.Fatalf("%d bytes in a queue, %d counted", sum, q.bytes)
			}
			bytes += sum
		}
		for b := range sh.table {
			for w := range sh.table[b] {
				slot := sh.table[b][w].Load()
				if slot == 0 {
					continue
				}
				seen++
				e := sh.entry(slot)
				if e == nil {
					t.Fatalf("a slot leads to a segment that is gone")
				}
				if at, place := sh.find(s.Hash(e.appendKey(nil)), e.appendKey(nil)); at != e || place != &sh.table[b][w] {
					t.Fatalf("an entry that its key doesn't lead to")
				}
			}
		}
		if seen != sh.entries.Load() || bytes != sh.bytes.Load() || bytes > sh.maxBytes+8*int64(sh.segmentWords) {
			t.Fatalf("shard %d: %d entries of %d, %d bytes, counted %d, of %d", i, seen, sh.entries.Load(), bytes, sh.bytes.Load(), sh.maxBytes)
		}
		sh.mu.Unlock()
	}
}

// Readers, writers and deleters run at once. Every answer that is read must
// belong to its key. The race detector makes this test strict.
func TestConcurrentUse(t *testing.T) {
	s := New(Options{Bytes: MinBytes, Entries: 200})
	const keys = 400
	answers := make([]*wire.Answer, keys)
	for i := range answers {
		answers[i] = answer(t, uint32(i), 0)
	}
	var wg sync.WaitGroup
	for w := range 6 {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(1, uint64(w)))
			for range 20000 {
				i := rnd.IntN(keys)
				h := s.Hash(key(i))
				switch {
				case w < 4:
					if e := s.Get(h, key(i), 1); e != nil && idOf(e) != uint32(i) {
						t.Errorf("key %d has the answer of %d", i, idOf(e))
						return
					}
				case rnd.IntN(10) == 0:
					s.Delete(h, key(i))
				default:
					s.Put(h, key(i), NewRecord(answers[i], 0, 60, 0), 1)
				}
			}
		})
	}
	wg.Wait()
	check(t, s)
}

func Example() {
	s := New(Options{Bytes: 8 << 20})
	m := new(dns.Msg)
	m.SetQuestion("example.org.", dns.TypeA)
	m.Response = true
	packed, _ := m.Pack()
	a, _, _ := wire.NewAnswer(packed)

	k := wire.AppendKey(nil, []byte("\aexample\x03org\x00"), dns.TypeA, dns.ClassINET, false, false)
	s.Put(s.Hash(k), k, NewRecord(a, 0, 30, time.Hour), 0)

	at := Instant(40 * time.Second)
	e := s.Get(s.Hash(k), k, at)
	fmt.Println("seconds left:", e.Left(at))
	// Output: seconds left: -10
}

func BenchmarkGet(b *testing.B) {
	s := New(Options{})
	for i := range 10000 {
		put(b, s, i, 0)
	}
	keys := make([][]byte, 1024)
	for i := range keys {
		keys[i] = key(i)
	}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for i := 0; pb.Next(); i++ {
			k := keys[i%1024]
			if s.Get(s.Hash(k), k, 1) == nil {
				b.Fail()
			}
		}
	})
}

// A client cannot choose names that share a bucket (RFC 5452, section 9),
// because every store has a secret seed, unless its owner sets one.
func TestHashesAreSeeded(t *testing.T) {
	a, b := New(Options{Bytes: MinBytes}), New(Options{Bytes: MinBytes})
	same := New(Options{Bytes: MinBytes, Seed: a.seed})
	alike := 0
	for i := range 100 {
		if a.Hash(key(i)) == b.Hash(key(i)) {
			alike++
		}
		if a.Hash(key(i)) != same.Hash(key(i)) {
			t.Errorf("key %d: two hashes under one seed", i)
		}
	}
	if alike > 1 {
		t.Errorf("%d of 100 hashes are alike under two seeds", alike)
	}
}
