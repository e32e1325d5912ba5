package store

// Eviction is S3-FIFO (Yang et al., SOSP 2023). New entries go to a small
// queue, a tenth of the memory, and move to the main queue if they were hit
// there. An entry of the main queue that was hit since its previous round gets
// another round. Both are queues of segments, so eviction visits entries in the
// order of their addresses and copies the entries that stay.
//
// shard.mu must be held for all methods.

const (
	// smallShare is the ratio of the memory of the shard to the small queue.
	smallShare = 10
	// maxVisits is the most rounds that an entry can earn. Further hits do not
	// write to the entry.
	maxVisits = 3
)

// step evicts one entry, or keeps it by a copy. With force it evicts in any
// case. ok is false if there is no entry.
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
	// Each round over all entries takes one visit from each. Readers may add
	// visits at the same time, so after maxVisits rounds every entry is
	// evicted.
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

// place returns the place of slot in the table, or nil.
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
