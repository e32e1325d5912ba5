package store

// Eviction is S3-FIFO (Yang et al., SOSP 2023): what comes in goes to a small
// queue, a tenth of the memory, and on to the main one if it was asked for
// while it was there. The main queue gives another round to what was asked for
// since its last. Both are queues of segments, so eviction walks over entries
// in the order of their addresses and copies those that stay.
//
// All methods need shard.mu.

const (
	// smallShare: one part in so many is the small queue's.
	smallShare = 10
	// maxVisits is how many rounds an entry can have earned. The first hits
	// after a move write to it; all further ones don't.
	maxVisits = 3
)

// step lets one entry go, or stay by a copy. force lets it go in any case. It
// reports whether the entry went, and is not ok when there is none.
func (s *Store) step(sh *shard, now Instant, force bool) (went, ok bool) {
	q := &sh.small
	if len(q.segments) == 0 || (sh.small.bytes*smallShare < sh.bytes.Load() && len(sh.main.segments) > 0) {
		q = &sh.main
	}
	if len(q.segments) == 0 {
		return false, false
	}
	g := q.segments[0]
	g.sealed = true
	if g.cursor >= g.used {
		sh.release(q)
		return false, true
	}
	word := g.cursor
	e := g.at(word)
	g.cursor += e.length()
	last := g.cursor >= g.used
	var buf [keyHead + 256]byte
	key := e.appendKey(buf[:0])
	hash := s.Hash(key)
	place := sh.place(hash, slotOf(tagOf(hash), g.seq, word))
	switch visits := e.visits.Load(); {
	case place == nil: // replaced or deleted
	case e.Dead > now && visits > 0 && !force:
		if q == &sh.main {
			visits--
		} else {
			visits = 0
		}
		if to, at := sh.reserve(&sh.main, e.length()); to != nil {
			e.moveTo(to.at(at), visits)
			place.Store(slotOf(tagOf(hash), to.seq, at))
			break
		}
		fallthrough
	default:
		place.Store(0)
		sh.entries.Add(-1)
		if q == &sh.small && e.Dead > now {
			sh.ghost[hash%uint64(len(sh.ghost))] = uint32(hash >> 32)
		}
		went = true
	}
	if last {
		sh.release(q)
	}
	return went, true
}

// makeRoom evicts until n words fit into q, and another entry into the shard.
func (s *Store) makeRoom(sh *shard, q *queue, n int, more bool, now Instant) (evicted int) {
	// Each round over all entries takes one visit from each. What readers add
	// meanwhile must not keep us here: after maxVisits rounds everything goes.
	budget := (maxVisits + 1) * (int(sh.entries.Load()) + 1)
	for full := true; full; budget-- {
		full = more && sh.maxEntries > 0 && sh.entries.Load() >= int64(sh.maxEntries)
		if q.needs(n) {
			full = full || sh.bytes.Load()+8*int64(max(n, sh.segmentWords)) > sh.maxBytes
		}
		if !full {
			break
		}
		went, ok := s.step(sh, now, budget < 0)
		if !ok {
			break
		}
		if went {
			evicted++
		}
	}
	return evicted
}

// place returns the place of slot in the table, nil if it isn't there.
func (sh *shard) place(hash, slot uint64) *slotPlace {
	for _, b := range sh.buckets(hash) {
		for i := range b {
			if b[i].Load() == slot {
				return &b[i]
			}
		}
	}
	return nil
}
