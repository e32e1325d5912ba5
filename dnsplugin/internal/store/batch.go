package store

// Look-ups of many keys at once. Get waits for memory twice, for the table and
// for the entry. A caller with several keys takes each of these steps for all
// keys before the next step, so that the waits overlap:
//
//	for ... { s.Touch(hash) }
//	for ... { e = s.Likely(hash) }
//	for ... { e.Touch() }
//	for ... { e = s.Take(e, key, now) }

// Touch reads the buckets that may have the entry of hash.
func (s *Store) Touch(hash uint64) {
	for _, b := range s.shard(hash).buckets(hash) {
		b[0].Load()
	}
}

// Likely returns the entry with the tag of hash, or nil if there is none. It
// usually is the entry of the key; Take checks that.
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

// Touch reads every line of the entry. The result has no meaning, but keeps the
// compiler from removing the loads.
func (e *Entry) Touch() uint64 {
	read := uint64(0)
	for at := cacheLine - 1; at < e.bytes(); at += cacheLine {
		read += uint64(e.tail(at, 1)[0])
	}
	return read
}

// cacheLine is the unit in which processors read memory, in bytes.
const cacheLine = 64

// Take is Get for an entry that Likely has returned. It returns nil if the
// entry has another key or is dead.
func (s *Store) Take(e *Entry, key []byte, now Instant) *Entry {
	if !e.has(key) {
		return nil
	}
	return e.take(now)
}
