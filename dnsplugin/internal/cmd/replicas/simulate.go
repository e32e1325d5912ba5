package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"math"
	"math/bits"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/penstock/penstock/dnsplugin/internal/store"
	"github.com/penstock/penstock/dnsplugin/internal/wire"
)

// Trace is the sequence of the cluster's questions.
type Trace struct {
	Answers [][]byte // a packed response for each distinct question
	Asks    []uint32 // indexes of Answers, in the order of time
}

// Options of a simulation.
type Options struct {
	Rate    int           // queries per second of all replicas together
	Warm    time.Duration // before counting
	Measure time.Duration // of counting
	Bytes   int64         // of each of a replica's two stores; 0 means store.DefaultBytes
	Seed    uint64        // of the spread over replicas
}

// maxQueries bounds a simulation: queries have numbers of 32 bits.
const maxQueries = math.MaxUint32

// Validate returns an error if an option is out of range.
func (o Options) Validate() error {
	if o.Rate < 1 || o.Warm < 0 || o.Measure <= 0 {
		return fmt.Errorf("rate %d, warm %v, measure %v: give a rate of at least 1, no negative time, and some time to measure", o.Rate, o.Warm, o.Measure)
	}
	if n := float64(o.Rate) * (o.Warm + o.Measure).Seconds(); n > maxQueries {
		return fmt.Errorf("%.0f queries are too many: lower the rate or the time, %d is the most", n, uint32(maxQueries))
	}
	return store.Options{Bytes: o.Bytes}.Validate()
}

// Result is what happened while counting. Hits and Misses together are Queries.
type Result struct {
	Replicas int     `json:"replicas"`
	Seconds  float64 `json:"seconds"` // simulated
	Queries  int64   `json:"queries"`
	Hits     int64   `json:"hits"`
	Misses   int64   `json:"misses"`  // questions to the source
	Denials  int64   `json:"denials"` // queries whose answer is a denial
	Evicted  int64   `json:"evicted"` // entries that had to go, expired ones and the warm-up included
	Entries  int64   `json:"entries"` // in all replicas at the end
}

func (r *Result) add(o Result) {
	r.Queries += o.Queries
	r.Hits += o.Hits
	r.Misses += o.Misses
	r.Denials += o.Denials
	r.Evicted += o.Evicted
	r.Entries += o.Entries
}

// question is a distinct question with its answer as the plugin would keep it.
type question struct {
	key    []byte
	hash   uint64
	answer *wire.Answer
	denial bool
	ttl    uint32 // seconds
}

func newQuestion(msg []byte) (question, error) {
	a, info, err := wire.NewAnswer(msg)
	if err != nil {
		return question{}, err
	}
	q := question{answer: a, ttl: info.MinTTL}
	if q.denial = binary.BigEndian.Uint16(msg[6:]) == 0; q.denial {
		if !info.SOA {
			return question{}, errors.New("a denial without SOA is not kept (RFC 2308): add the SOA")
		}
		q.ttl = min(q.ttl, info.SOANegTTL)
	}
	if q.ttl == 0 {
		return question{}, errors.New("its TTL is 0, so no cache keeps it: give it a second or more")
	}
	raw := a.Question()
	end := len(raw) - 4
	q.key = wire.AppendKey(nil, raw[:end], binary.BigEndian.Uint16(raw[end:]), binary.BigEndian.Uint16(raw[end+2:]), false, false)
	return q, nil
}

// player holds what all simulations of a trace share. It is not changed by
// them.
type player struct {
	o         Options
	asks      []uint32
	questions []question
	queries   uint64
	first     uint64 // the first query that counts
	hashes    maphash.Seed
}

func newPlayer(t Trace, o Options) (*player, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	if len(t.Asks) == 0 {
		return nil, errors.New("the trace asks nothing: give at least one query")
	}
	p := &player{o: o, asks: t.Asks, questions: make([]question, len(t.Answers)), hashes: maphash.MakeSeed()}
	p.first = uint64(float64(o.Rate) * o.Warm.Seconds())
	p.queries = p.first + uint64(float64(o.Rate)*o.Measure.Seconds())
	for i, msg := range t.Answers {
		var err error
		if p.questions[i], err = newQuestion(msg); err != nil {
			return nil, fmt.Errorf("trace: answer %d: %w", i, err)
		}
		p.questions[i].hash = maphash.Bytes(p.hashes, p.questions[i].key)
	}
	for i, q := range t.Asks {
		if int(q) >= len(t.Answers) {
			return nil, fmt.Errorf("trace: query %d asks for answer %d of %d", i, q, len(t.Answers))
		}
	}
	return p, nil
}

// replicaOf returns which of n replicas gets query i. If n divides m, a replica
// of n gets the queries of m/n replicas of m.
func (p *player) replicaOf(i uint64, n int) int {
	r, _ := bits.Mul64(mix(i+p.o.Seed*0x9e3779b97f4a7c15), uint64(n))
	return int(r)
}

// mix is the finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// share returns the queries of each of n replicas, one replica's behind the
// other's: replica r has order[ends[r-1]:ends[r]].
func (p *player) share(n int) (order []uint32, ends []int) {
	next := make([]int, n+1) // where the next query of a replica goes
	for i := range p.queries {
		next[p.replicaOf(i, n)+1]++
	}
	for r := range n {
		next[r+1] += next[r]
	}
	order = make([]uint32, p.queries)
	for i := range p.queries {
		r := p.replicaOf(i, n)
		order[next[r]] = uint32(i)
		next[r]++
	}
	return order, next[:n]
}

// play simulates n replicas.
func (p *player) play(n int) (Result, error) {
	if n < 1 || n > 1<<20 {
		return Result{}, fmt.Errorf("%d replicas: give 1 to %d", n, 1<<20)
	}
	order, ends := p.share(n)
	total := Result{Replicas: n, Seconds: p.o.Measure.Seconds()}
	var mu sync.Mutex // guards total
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(n, runtime.GOMAXPROCS(0)) {
		wg.Go(func() {
			var sum Result
			for r := int(next.Add(1)) - 1; r < n; r = int(next.Add(1)) - 1 {
				start := 0
				if r > 0 {
					start = ends[r-1]
				}
				sum.add(p.replica(order[start:ends[r]]))
			}
			mu.Lock()
			defer mu.Unlock()
			total.add(sum)
		})
	}
	wg.Wait()
	return total, nil
}

// replica plays the given queries through one replica.
func (p *player) replica(order []uint32) Result {
	var r Result
	success := store.New(store.Options{Bytes: p.o.Bytes, Seed: p.hashes})
	denial := store.New(store.Options{Bytes: p.o.Bytes, Seed: p.hashes})
	seen := make([]bool, len(p.questions))
	for _, i := range order {
		ask := p.asks[uint64(i)%uint64(len(p.asks))]
		q := &p.questions[ask]
		now := p.instant(uint64(i))
		e := denial.Get(q.hash, q.key, now)
		if e == nil {
			e = success.Get(q.hash, q.key, now)
		}
		hit := e != nil && e.Left(now) > 0
		if !hit {
			side := success
			if q.denial {
				side = denial
			}
			ttl := q.ttl
			if !seen[ask] && uint64(i) < p.first {
				ttl = p.firstTTL(i, ttl)
			}
			_, evicted := side.Put(q.hash, q.key, store.NewRecord(q.answer, now, ttl, 0), now)
			seen[ask] = true
			r.Evicted += int64(evicted)
		}
		if uint64(i) < p.first {
			continue
		}
		r.Queries++
		if q.denial {
			r.Denials++
		}
		if hit {
			r.Hits++
		} else {
			r.Misses++
		}
	}
	r.Entries = int64(success.Len() + denial.Len())
	return r
}

// firstTTL is how long what query i brings into an empty cache lives: 1 to ttl
// seconds, so that names end at moments of their own.
func (p *player) firstTTL(i, ttl uint32) uint32 {
	return 1 + uint32(mix(^(uint64(i)+p.o.Seed*0x9e3779b97f4a7c15))%uint64(ttl))
}

// instant is when query i comes.
func (p *player) instant(i uint64) store.Instant {
	rate := uint64(p.o.Rate)
	return store.Instant(i/rate*uint64(time.Second) + i%rate*uint64(time.Second)/rate)
}
