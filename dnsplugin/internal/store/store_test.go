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

// answer packs a small answer that carries id in its address, so that a mixed
// up entry shows.
func answer(t testing.TB, id uint32, padding int) *wire.Answer {
	t.Helper()
	m := new(dns.Msg)
	m.SetQuestion("example.org.", dns.TypeA)
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
	return binary.BigEndian.Uint32(e.Answer.Msg()[e.Answer.TTLOffset(0)+6:])
}

func key(i int) []byte { return fmt.Appendf(nil, "key-%d", i) }

func put(t testing.TB, s *Store, i int, now Instant) int {
	t.Helper()
	return s.Put(s.Hash(key(i)), key(i), NewEntry(answer(t, uint32(i), 0), now, 60, 0), now)
}

func get(s *Store, i int, now Instant) *Entry { return s.Get(s.Hash(key(i)), key(i), now) }

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

func TestDeadEntryIsNotReturned(t *testing.T) {
	s := New(Options{})
	e := NewEntry(answer(t, 1, 0), 1000, 5, 3*time.Second)
	s.Put(s.Hash(key(1)), key(1), e, 1000)
	last := Instant(1000 + 8*time.Second - 1)
	if got := s.Get(s.Hash(key(1)), key(1), last); got != e || got.Left(last) != -2 {
		t.Fatal("stale entry must be returned until it is dead")
	}
	if s.Get(s.Hash(key(1)), key(1), last+1) != nil {
		t.Fatal("dead entry returned")
	}
}

// Hostile keys that all have one hash: slow, but never the wrong answer.
func TestCollisionsNeverMixUpAnswers(t *testing.T) {
	s := New(Options{Bytes: MinBytes})
	const hash = 42
	for i := range 500 {
		s.Put(hash, key(i), NewEntry(answer(t, uint32(i), 0), 0, 60, 0), 0)
	}
	for i := range 500 {
		if e := s.Get(hash, key(i), 1); e == nil || idOf(e) != uint32(i) {
			t.Fatalf("key %d", i)
		}
	}
	if s.Get(hash, key(500), 1) != nil {
		t.Fatal("answered a key that was never put")
	}
	for i := 0; i < 500; i += 2 {
		if !s.Delete(hash, key(i)) {
			t.Fatalf("delete %d", i)
		}
	}
	for i := range 500 {
		if e := s.Get(hash, key(i), 1); (e != nil) != (i%2 == 1) {
			t.Fatalf("key %d after deletes", i)
		}
	}
}

func TestBoundedInBytes(t *testing.T) {
	for _, padding := range []int{0, 500, 9000} {
		s := New(Options{Bytes: 2 << 20})
		evicted := 0
		for i := range 20000 * 500 / (500 + padding) {
			e := NewEntry(answer(t, uint32(i), padding), 0, 60, 0)
			evicted += s.Put(s.Hash(key(i)), key(i), e, 0)
			if i%64 == 0 && s.Bytes() > 2<<20 {
				t.Fatalf("%d bytes", s.Bytes())
			}
		}
		if evicted == 0 || s.Bytes() < 2<<20*8/10 {
			t.Errorf("padding %d: evicted %d, %d bytes in %d entries", padding, evicted, s.Bytes(), s.Len())
		}
	}
}

// The charge must cover what the heap really grows by.
func TestCostCoversTheHeap(t *testing.T) {
	const n = 20000
	s := New(Options{Bytes: 64 << 20})
	before := heap()
	for i := range n {
		put(t, s, i, 0)
	}
	grown := int64(heap() - before)
	charged := s.Bytes() - int64(8*len(s.buckets))
	t.Logf("%d bytes per entry on the heap, %d charged", grown/n, charged/n)
	if grown > charged {
		t.Errorf("heap grew by %d, charged %d", grown, charged)
	}
	if charged > grown*3/2 {
		t.Errorf("charged %d for %d: half again too much", charged, grown)
	}
	runtime.KeepAlive(s)
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
	s.shards[0].maxBytes = 2000
	put(t, s, 1, 0)
	put(t, s, 2, 0)
	if n := s.Put(s.Hash(key(1)), key(1), NewEntry(answer(t, 1, 4000), 0, 60, 0), 0); n != 0 {
		t.Errorf("evicted %d", n)
	}
	if get(s, 1, 0) != nil || get(s, 2, 0) == nil {
		t.Error("the superseded entry stays, or another one went")
	}
}

// SIEVE: a scan of names that are asked for once does not push out those that are asked for again.
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

func TestDeadEntriesGoFirst(t *testing.T) {
	s := New(Options{Entries: 1024})
	for i := range 1024 {
		ttl := uint32(1000)
		if i%2 == 0 {
			ttl = 1
		}
		s.Put(s.Hash(key(i)), key(i), NewEntry(answer(t, uint32(i), 0), 0, ttl, 0), 0)
		get(s, i, 0)
	}
	later := Instant(2 * time.Second)
	for i := range 512 {
		put(t, s, 5000+i, later)
	}
	for i := range 1024 {
		if (get(s, i, later) != nil) != (i%2 == 1) {
			t.Fatalf("entry %d", i)
		}
	}
}

func TestHitAllocatesAndWritesNothing(t *testing.T) {
	s := New(Options{})
	put(t, s, 1, 0)
	k := key(1)
	get(s, 1, 0) // sets the mark
	n := s.buckets[s.Hash(k)>>s.shift].Load()
	before := *(*[unsafe.Sizeof(node{})]byte)(unsafe.Pointer(n))
	if allocs := testing.AllocsPerRun(100, func() {
		if s.Get(s.Hash(k), k, 1) == nil {
			t.Fatal("miss")
		}
	}); allocs != 0 {
		t.Errorf("%v allocations per hit", allocs)
	}
	if before != *(*[unsafe.Sizeof(node{})]byte)(unsafe.Pointer(n)) {
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

// TestAgainstModel compares with a map that never evicts: what the store
// returns is the latest put of that key, alive; and its own books balance.
func TestAgainstModel(t *testing.T) {
	answers := make([]*wire.Answer, 64)
	for i := range answers {
		answers[i] = answer(t, uint32(i), i%4*300)
	}
	rapid.Check(t, func(t *rapid.T) {
		opts := Options{Bytes: MinBytes, Entries: rapid.IntRange(0, 12).Draw(t, "entries")}
		s := New(opts)
		if rapid.Bool().Draw(t, "tight") {
			s.shards[0].maxBytes = 4000
		}
		// A handful of hashes for many keys: lists of several nodes.
		hash := func(i int) uint64 { return uint64(i%3) << 60 }
		model := map[int]*Entry{}
		now := Instant(0)
		evictable := false
		t.Repeat(map[string]func(*rapid.T){
			"put": func(t *rapid.T) {
				i := rapid.IntRange(0, 15).Draw(t, "key")
				e := NewEntry(answers[rapid.IntRange(0, 63).Draw(t, "answer")], now,
					uint32(rapid.IntRange(1, 10).Draw(t, "ttl")), time.Duration(rapid.IntRange(0, 5).Draw(t, "grace"))*time.Second)
				s.Put(hash(i), key(i), e, now)
				model[i] = e
				evictable = true
			},
			"get": func(t *rapid.T) {
				i := rapid.IntRange(0, 15).Draw(t, "key")
				got, want := s.Get(hash(i), key(i), now), model[i]
				if got != nil && got != want {
					t.Fatalf("key %d: an entry that is not the latest", i)
				}
				if got != nil && (got.Dead <= now || got.Left(now) <= -5-1) {
					t.Fatalf("key %d: dead entry", i)
				}
			},
			"delete": func(t *rapid.T) {
				i := rapid.IntRange(0, 15).Draw(t, "key")
				s.Delete(hash(i), key(i))
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

// check verifies the structure: queue and buckets hold the same nodes, the
// links agree in both directions, and the sums are right.
func check(t interface{ Fatalf(string, ...any) }, s *Store) {
	for i := range s.shards {
		sh := &s.shards[i]
		sh.mu.Lock()
		inQueue, sum, handSeen := map[*node]bool{}, int64(0), sh.hand == nil
		var older *node
		for n := sh.oldest; n != nil; older, n = n, n.newer {
			if n.older != older || inQueue[n] {
				t.Fatalf("queue broken")
			}
			inQueue[n] = true
			sum += int64(n.cost)
			handSeen = handSeen || n == sh.hand
		}
		if sh.newest != older || !handSeen || sum != sh.bytes.Load() || int64(len(inQueue)) != sh.entries.Load() || sum > sh.maxBytes {
			t.Fatalf("shard %d: %d nodes, %d entries, %d bytes, charged %d of %d", i, len(inQueue), sh.entries.Load(), sum, sh.bytes.Load(), sh.maxBytes)
		}
		per := 1 << s.perOf
		for b := i * per; b < (i+1)*per; b++ {
			for n := s.buckets[b].Load(); n != nil; n = n.next.Load() {
				if !inQueue[n] {
					t.Fatalf("a node in the table that is not in the queue, or twice")
				}
				delete(inQueue, n)
			}
		}
		if len(inQueue) != 0 {
			t.Fatalf("%d nodes in the queue but not in the table", len(inQueue))
		}
		sh.mu.Unlock()
	}
}

// Readers, writers and deleters at once: run with -race. Every answer read
// must be the one of its key.
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
					s.Put(h, key(i), NewEntry(answers[i], 0, 60, 0), 1)
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
	s.Put(s.Hash(k), k, NewEntry(a, 0, 30, time.Hour), 0)

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
