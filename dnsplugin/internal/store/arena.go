package store

import (
	"sync/atomic"
	"unsafe"
)

// A segment is a piece of memory that entries are written into one after the
// other, and never changed. It holds no pointers, so the collector looks at
// one object for some hundreds of entries, and frees it when the last reader
// has left: memory is never used again under a reader's eyes.
type segment struct {
	seq    uint32
	words  []uint64
	used   int  // words; under the shard's lock, like cursor
	cursor int  // where eviction goes on
	sealed bool // being emptied: nothing is written to it any more
}

// A slot of the table says where an entry is: a tag of its hash, the number of
// its segment, and the word in it. Zero is an empty slot; segments count from 1.
//
//	| tag 16 | sequence number of the segment 28 | word 20 |
const (
	wordBits = 20 // 8 MiB segments at most
	seqBits  = 28
	seqMask  = 1<<seqBits - 1
	wordMask = 1<<wordBits - 1
)

func slotOf(tag uint16, seq uint32, word int) uint64 {
	return uint64(tag)<<(seqBits+wordBits) | uint64(seq)<<wordBits | uint64(word)
}

func seqOf(slot uint64) uint32 { return uint32(slot>>wordBits) & seqMask }
func wordOf(slot uint64) int   { return int(slot & wordMask) }

// ways is how many slots a bucket has: a line of 64 bytes.
const ways = 8

type bucket [ways]atomic.Uint64

// queue is a FIFO of segments; the last one is being written to.
type queue struct {
	segments []*segment
	bytes    int64
}

// at returns the entry at a word of the segment.
func (g *segment) at(word int) *Entry {
	return (*Entry)(unsafe.Pointer(&g.words[word])) //nolint:gosec // an Entry has no pointers, and words are aligned for it
}

// entry follows slot. It returns nil if the segment is gone: the entry has
// been moved, replaced or evicted since the slot was read.
func (sh *shard) entry(slot uint64) *Entry {
	seq := seqOf(slot)
	g := sh.ring[seq&uint32(len(sh.ring)-1)].Load()
	if g == nil || g.seq != seq {
		return nil
	}
	return g.at(wordOf(slot))
}

// reserve returns n words at the end of q, in a new segment if need be. It
// returns nil if there is no free number for a segment, which is never as
// long as the ring has room for twice the segments of the bound.
func (sh *shard) reserve(q *queue, n int) (g *segment, word int) {
	if k := len(q.segments); k > 0 {
		g = q.segments[k-1]
		if !g.sealed && g.used+n <= len(g.words) {
			word, g.used = g.used, g.used+n
			return g, word
		}
	}
	// Numbers whose place in the ring is taken by a segment that lives long
	// are passed over.
	for range sh.ring {
		sh.seq = sh.seq%seqMask + 1
		place := &sh.ring[sh.seq&uint32(len(sh.ring)-1)]
		if place.Load() != nil {
			continue
		}
		g = &segment{seq: sh.seq, words: make([]uint64, max(n, sh.segmentWords)), used: n}
		place.Store(g)
		q.segments = append(q.segments, g)
		q.bytes += g.size()
		sh.bytes.Add(g.size())
		return g, 0
	}
	return nil, 0
}

// needs reports whether n more words take a new segment in q.
func (q *queue) needs(n int) bool {
	k := len(q.segments)
	return k == 0 || q.segments[k-1].sealed || q.segments[k-1].used+n > len(q.segments[k-1].words)
}

func (g *segment) size() int64 { return int64(8 * len(g.words)) }

// release gives up the oldest segment of q.
func (sh *shard) release(q *queue) {
	g := q.segments[0]
	q.segments[0] = nil
	q.segments = q.segments[1:]
	q.bytes -= g.size()
	sh.bytes.Add(-g.size())
	sh.ring[g.seq&uint32(len(sh.ring)-1)].Store(nil)
}
