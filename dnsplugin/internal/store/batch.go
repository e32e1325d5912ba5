package store

// Look-ups of many keys at once. Get waits for memory twice, for the table and
// for the entry. Who has several keys takes each of these steps for all of
// them first, so that the processor waits for all at once:
//
//	for ... { s.Touch(hash) }
//	for ... { e = s.Likely(hash) }
//	for ... { e.Touch() }
//	for ... { e = s.Take(e, key, now) }

// Touch reads the places where the entry of hash may be.
func (s *Store) Touch(hash uint64) {
	for _, b := range s.shard(hash).buckets(hash) {
		b[0].Load()
	}
}

// Likely returns the entry that is at a place for hash and bears its tag: most
// likely the one of its key, but only Take tells. nil means that there was none.
func (s *Store) Likely(hash uint64) *Entry {
	sh := s.shard(hash)
	tag := uint64(tagOf(hash))
	for _, b := range sh.buckets(hash) {
		for i := range b {
			if slot := b[i].Load(); slot>>(seqBits+wordBits) == tag && slot != 0 {
				if e := sh.entry(slot); e != nil {
					return e
				}
			}
		}
	}
	return nil
}

// Touch reads every line of the entry. The result says nothing; it keeps the
// compiler from leaving the loads out.
func (e *Entry) Touch() uint64 {
	read := uint64(0)
	for at := cacheLine - 1; at < e.bytes(); at += cacheLine {
		read += uint64(e.tail(at, 1)[0])
	}
	return read
}

// cacheLine is what a processor reads at once, in bytes.
const cacheLine = 64

// Take is Get for the entry that Likely has returned: nil if it is not that of
// key or no longer live.
func (s *Store) Take(e *Entry, key []byte, now Instant) *Entry {
	if !e.has(key) {
		return nil
	}
	return e.take(now)
}
