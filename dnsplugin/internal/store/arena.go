package store

import (
	"sync/atomic"
	"unsafe"
)

// A segment is a piece of memory into which entries are written one after the
// other. Entries are not changed afterwards. A segment has no pointers, so the
// collector scans one object for hundreds of entries. It frees a segment when
// no reader has it, so memory is never reused while a reader sees it.
type segment struct {
	seq    uint32
	words  []uint64
	used   int  // words; under the shard's lock, like cursor
	cursor int  // where eviction continues
	sealed bool // being emptied, so nothing is written to it
}

// A slot of the table locates an entry by a tag of its hash, the number of its
// segment, and the word in the segment. A slot of zero is empty; segments count
// from 1.
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

// ways is the number of slots of a bucket, which is a line of 64 bytes.
const ways = 8

type bucket [ways]atomic.Uint64

// queue is a FIFO of segments. Entries are written to the last one.
type queue struct {
	segments []*segment
	bytes    int64
}

// at returns the entry at a word of the segment.
func (g *segment) at(word int) *Entry {
	return (*Entry)(unsafe.Pointer(&g.words[word])) //nolint:gosec // an Entry has no pointers, and words are aligned for it
}

// entry returns the entry of slot. It returns nil if the segment is gone,
// because the entry has been moved, replaced or evicted since the slot was
// read.
func (sh *shard) entry(slot uint64) *Entry {
	seq := seqOf(slot)
	g := sh.ring[seq&uint32(len(sh.ring)-1)].Load()
	if g == nil || g.seq != seq {
		return nil
	}
	return g.at(wordOf(slot))
}

// reserve returns n words at the end of q, in a new segment if necessary. It
// returns nil if no segment number is free, which cannot happen while the ring
// has room for twice the segments of the bound.
func (sh *shard) reserve(q *queue, n int) (g *segment, word int) {
	if k := len(q.segments); k > 0 {
		g = q.segments[k-1]
		if !g.sealed && g.used+n <= len(g.words) {
			word, g.used = g.used, g.used+n
			return g, word
		}
	}
	// Skip numbers whose place in the ring belongs to a long-lived segment.
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

// needs reports whether n more words need a new segment in q.
func (q *queue) needs(n int) bool {
	k := len(q.segments)
	return k == 0 || q.segments[k-1].sealed || q.segments[k-1].used+n > len(q.segments[k-1].words)
}

func (g *segment) size() int64 { return int64(8 * len(g.words)) }

// release frees the oldest segment of q.
func (sh *shard) release(q *queue) {
	g := q.segments[0]
	q.segments[0] = nil
	q.segments = q.segments[1:]
	q.bytes -= g.size()
	sh.bytes.Add(-g.size())
	sh.ring[g.seq&uint32(len(sh.ring)-1)].Store(nil)
}
