package inflate

import (
	"github.com/penstock/penstock/internal/crc"
	"github.com/penstock/penstock/soci/internal/inflate/flate"
)

// The methods of members that decode by an index or record one.

// applyOptions sets up recording and the index. It must be called after the
// first header was read.
func (m *members) applyOptions(opts Options) {
	if m.rec = opts.Record; m.rec != nil {
		m.recordMember()
		m.recordBlocks()
	}
	if opts.Index != nil {
		if m.idx = newIndexed(m.in, opts.Index, m.workers, m.rec); m.idx != nil {
			m.idx.start()
		}
	}
}

// recordBlocks records the blocks that m.dec decodes.
func (m *members) recordBlocks() {
	if m.rec == nil {
		return
	}
	m.dec.Watch(func(k flate.Mark) {
		if out := m.out + int64(m.dec.Pending()); m.rec.Due(out) {
			p, skip := m.dec.Ahead()
			m.rec.Block(k.Bits, out, k.History, p, skip)
		}
	})
}

// recordMember records the member whose header has just been read.
func (m *members) recordMember() {
	if m.rec != nil {
		m.rec.Member(m.memberStart, m.out, int(m.in.Offset()-m.memberStart))
	}
}

// nextIndexed returns the next output. It returns no bytes at the end of a
// member, or when the serial decoder takes over.
func (m *members) nextIndexed() ([]byte, error) {
	c, err := m.idx.next()
	switch {
	case err != nil:
		return nil, err
	case c == nil:
		return nil, m.leaveIndexed()
	case c.end:
		if c.crc != m.sum || c.len != m.size {
			return nil, errChecksum
		}
		m.sum, m.size = 0, 0
		return nil, nil
	}
	m.sum = crc.IEEE.Combine(m.sum, c.sum, int64(len(c.p)))
	m.size += uint32(len(c.p)) //nolint:gosec // G115: the format counts modulo 2^32
	return c.p, nil
}

// leaveIndexed makes the serial decoder take over from the indexed decoder.
func (m *members) leaveIndexed() error {
	past := m.idx.history()
	at := m.idx.leave()
	m.indexWrong = m.idx.stats.dropped > 0
	m.idx = nil
	if at.member {
		return m.nextMember(true)
	}
	m.memberStart = m.in.Offset()
	m.lastCheck = progress{m.memberStart, m.out}
	m.dec.ResetAt(m.in, uint(at.bits%8), past) //nolint:gosec // G115: 0 to 7
	return nil
}

// IndexWrong reports whether Options.Index was found to be wrong.
func (r *Reader) IndexWrong() bool {
	m, ok := r.Reader.(*members)
	return ok && m.indexWrong
}
