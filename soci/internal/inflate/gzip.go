package inflate

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/penstock/penstock/internal/crc"
	"github.com/penstock/penstock/soci/internal/inflate/flate"
	"github.com/penstock/penstock/soci/internal/inflate/index"
)

var (
	errHeader   = errors.New("gzip: invalid header")
	errReserved = errors.New("gzip: reserved header flags")
	errChecksum = errors.New("gzip: wrong checksum or length")
	errClosed   = errors.New("inflate: read after Close")
)

// The flags in the header of a member (RFC 1952 section 2.3.1).
const (
	flagHeaderCRC = 1 << 1
	flagExtra     = 1 << 2
	flagName      = 1 << 3
	flagComment   = 1 << 4
	flagReserved  = 0xe0
)

// members reads gzip members in sequence.
type members struct {
	in   *flate.Input
	dec  *flate.Decoder
	left []byte // decoded and included in sum, but not read yet
	sum  uint32 // CRC-32 of the member so far
	size uint32 // its length, modulo 2^32
	err  error  // sticky

	padded      bool // zero bytes follow the last member
	workers     int  // more than one: decode members, or parts of one, concurrently
	sizes       jobSizes
	par         *parallelMembers // nil before a second member
	memberStart int64            // offset of the member
	midMember   bool             // resumed inside the member: sum and size are unknown
	lastCheck   progress         // position at which workersPay last measured the member
	segments    segmentSizes
	two         *twoStage // nil before a large member

	idx        *indexedDecoder // nil without an index, or after its last span
	indexWrong bool            // the index was dropped
	rec        *index.Recorder // nil if nothing is recorded
	out        int64           // bytes of output so far, including left
}

// newMembers reads the first header.
func newMembers(in *flate.Input, workers int) (*members, error) {
	m := newMembersAt(in, workers)
	if err := m.readHeader(); err != nil {
		return nil, classify(in, err)
	}
	m.dec = flate.NewDecoder(in)
	return m, nil
}

func newMembersAt(in *flate.Input, workers int) *members {
	return &members{in: in, workers: workers, sizes: jobSizes{jobMin, jobMax, jobOut}, segments: defaultSegmentSizes()}
}

// Read implements io.Reader.
func (m *members) Read(p []byte) (int, error) {
	for len(m.left) == 0 && len(p) > 0 {
		if m.err != nil {
			return 0, m.err
		}
		var err error
		m.left, err = m.nextOutput()
		m.out += int64(len(m.left))
		m.err = classify(m.in, err)
	}
	n := copy(p, m.left)
	m.left = m.left[n:]
	return n, nil
}

// close stops the workers.
func (m *members) close() {
	if m.par != nil {
		m.par.close()
	}
	if m.two != nil && m.two.active {
		m.two.close()
	}
	if m.idx != nil {
		m.idx.close()
	}
	if m.err == nil {
		m.err = errClosed
	}
	m.left = nil
}

// nextOutput returns the next output, or no bytes at the end of a member.
func (m *members) nextOutput() ([]byte, error) {
	if m.idx != nil {
		return m.nextIndexed()
	}
	if m.par != nil && m.par.active {
		if p := m.par.nextJob(); p != nil {
			if m.rec != nil {
				m.rec.Member(m.par.reading.at, m.out, m.par.reading.head)
			}
			return p, nil
		}
		return nil, m.nextMember(false)
	}
	p, err := m.decode()
	if err == nil {
		m.size += uint32(len(p)) //nolint:gosec // G115: the format counts modulo 2^32
		return p, nil
	}
	if err != io.EOF {
		return nil, err
	}
	trailer := m.in.Peek(8)
	if len(trailer) < 8 {
		return nil, noEOF(m.in.Err())
	}
	if !m.midMember && (binary.LittleEndian.Uint32(trailer) != m.sum || binary.LittleEndian.Uint32(trailer[4:]) != m.size) {
		return nil, errChecksum
	}
	m.in.Skip(8)
	return nil, m.nextMember(true)
}

// sourceError marks an error of the source, which classify must not wrap in
// ErrCorrupt.
type sourceError struct{ error }

// decode returns the next output of the member and adds it to the checksum.
func (m *members) decode() ([]byte, error) {
	if m.workers > 1 && (m.two == nil || !m.two.active) && m.workersPay() {
		if m.two == nil {
			m.two = newTwoStage(m.in, m.workers, m.segments)
			m.two.setRecorder(m.rec)
		}
		m.two.enter(m.dec)
	}
	if m.two != nil && m.two.active {
		p, sum, err := m.two.next()
		if err != nil {
			if src := m.two.frontIn.Err(); src != nil && src != io.EOF && err != io.EOF {
				err = sourceError{src} // classify would look at m.in, which did not fail
			}
			m.dec = m.two.leave()
			m.recordBlocks()
			return nil, err
		}
		m.two.reading.recordMark(m.rec, m.two.base, m.out)
		m.sum = crc.IEEE.Combine(m.sum, sum, int64(len(p)))
		return p, nil
	}
	p, err := m.dec.Next()
	// The checksum is cheap here, because the output is still in the cache.
	m.sum = crc32.Update(m.sum, crc32.IEEETable, p)
	return p, err
}

// progress is a position in a member: offsets in the input and the output.
type progress struct{ in, out int64 }

// Data that expands less than leastExpansion was stored, and data that expands
// more than mostExpansion consists of repetitions. A serial decoder handles
// both as fast as it can write memory, so workers would gain nothing.
const (
	leastExpansion = 1.02
	mostExpansion  = 50
)

// workersPay reports whether workers are worth starting: enough of the member
// was decoded since the last check, at a ratio of expansion that makes decoding
// the bottleneck.
func (m *members) workersPay() bool {
	in, out := m.in.Offset()-m.lastCheck.in, float64(m.out-m.lastCheck.out)
	if in < m.segments.serialFirst {
		return false
	}
	m.lastCheck = progress{m.in.Offset(), m.out}
	return out >= leastExpansion*float64(in) && out <= mostExpansion*float64(in)
}

// nextMember starts the next member, or returns io.EOF after the last. Zero
// bytes may follow the last member, because tape tools and the proxies of some
// registries append them.
func (m *members) nextMember(parallel bool) error {
	for {
		head := m.in.Peek(2)
		switch {
		case len(head) == 0:
			return m.in.Err()
		case len(head) == 1 && m.in.Err() != io.EOF:
			return m.in.Err()
		case head[0] == 0:
			m.padded = true
			m.in.Skip(1)
			continue
		case !m.padded && detectFormat(head) == Gzip:
			if parallel && m.enterParallel() {
				return nil
			}
			if err := m.readHeader(); err != nil {
				return err
			}
			m.recordMember()
			m.dec.Reset(m.in)
			return nil
		}
		return fmt.Errorf("the last member is followed by at least %d bytes that are not a gzip member", len(head))
	}
}

// enterParallel lets the workers decode from here, the start of a member.
func (m *members) enterParallel() bool {
	if m.workers < 2 {
		return false
	}
	if m.par == nil {
		m.par = newParallel(m.in, m.workers, m.sizes)
	}
	m.two = nil // not active; frees its memory for the jobs
	return m.par.enter()
}

// readHeader reads the header of a member.
func (m *members) readHeader() error {
	m.sum, m.size, m.memberStart, m.midMember = 0, 0, m.in.Offset(), false
	m.lastCheck = progress{m.memberStart, m.out}
	h := header{in: m.in}
	fixed := h.takeBytes(10) // magic number, method, flags, time, level, system
	if h.err != nil {
		return h.err
	}
	flags := fixed[3]
	switch {
	case detectFormat(fixed[:2]) != Gzip, fixed[2] != 8:
		return errHeader
	case flags&flagReserved != 0:
		return errReserved // required by RFC 1952 section 2.3.1.2
	}
	if flags&flagExtra != 0 {
		if n := h.takeBytes(2); h.err == nil {
			h.skip(int(binary.LittleEndian.Uint16(n)))
		}
	}
	if flags&flagName != 0 {
		h.skipString()
	}
	if flags&flagComment != 0 {
		h.skipString()
	}
	if flags&flagHeaderCRC != 0 {
		want := uint16(h.sum) //nolint:gosec // G115: the format stores the low half
		if n := h.takeBytes(2); h.err == nil && binary.LittleEndian.Uint16(n) != want {
			return errHeader
		}
	}
	return h.err
}

// header reads the header of a member and computes its checksum. After an error
// its methods do nothing.
type header struct {
	in  *flate.Input
	sum uint32
	err error
}

// takeBytes returns the next n bytes, valid until the next call, or nil after an
// error.
func (h *header) takeBytes(n int) []byte {
	if h.err != nil {
		return nil
	}
	p := h.in.Peek(n)
	if len(p) < n {
		h.err = noEOF(h.in.Err())
		return nil
	}
	h.sum = crc32.Update(h.sum, crc32.IEEETable, p)
	h.in.Skip(n)
	return p
}

func (h *header) skip(n int) {
	const step = 1 << 10
	for ; n > 0 && h.err == nil; n -= step {
		h.takeBytes(min(n, step))
	}
}

// skipString skips a string and its terminating zero byte.
func (h *header) skipString() {
	for h.err == nil {
		if c := h.takeBytes(1); h.err == nil && c[0] == 0 {
			return
		}
	}
}

// noEOF returns io.ErrUnexpectedEOF for io.EOF, and any other error unchanged.
func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
