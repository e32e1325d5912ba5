package inflate

import (
	"bytes"
	"io"
	"sync"

	"github.com/penstock/penstock/soci/internal/inflate/flate"
	"github.com/penstock/penstock/soci/internal/panics"
)

const (
	// jobMin is the compressed size from which a job ends at the next member. A
	// job of this size takes a quarter of a millisecond to decode, so the cost
	// of handing it over is small. Larger jobs gain nothing, because their
	// output leaves the second-level cache before it is read, and touching new
	// memory for it costs as much as the workers save.
	jobMin = 64 << 10
	// jobMax is the compressed size after which the search for a member ends.
	// The blob is then decoded serially up to the next member.
	jobMax = 2 << 20
	// jobOut bounds the output of a job. A job that exceeds it is decoded
	// serially, which needs no memory for the output.
	jobOut = 4 << 20
	// maxMisses is the number of wrong guesses, or failed searches, after which
	// the blob is decoded serially. A wrong guess is a byte sequence that looks
	// like a header; the work on its job is lost.
	maxMisses = 8
)

// readMost is the number of bytes that are read between two searches for a
// member. It is small, because pushJob copies the bytes after the start of the
// member.
const readMost = 32 << 10 // bytes

// jobSizes are the limits of a job in bytes. Tests make them small.
type jobSizes struct{ min, max, out int }

// A job is a part of the blob. It consists of whole members if its end was
// guessed right.
type job struct {
	in   []byte
	out  []byte
	at   int64 // offset of in in the source
	head int   // length of the header of the first member
	good bool  // out is the complete output of in
	done chan struct{}
}

// parallelMembers decodes members on several goroutines, in order. Only the
// goroutine that calls Read reads the source, and the workers wait only for
// jobs, so close always returns.
//
// The start of a member is guessed from its header. The guess was right if the
// members of the previous job end there, which the worker of that job verifies.
// If the guess was wrong, the input goes back to the serial decoder, which
// decodes up to the end of a member.
type parallelMembers struct {
	in     *flate.Input
	sizes  jobSizes
	limit  int // bound on the number of queued jobs
	todo   chan *job
	wg     sync.WaitGroup
	active bool
	misses int
	cuts   int  // number of jobs so far
	ended  bool // the source has ended or failed

	queue    []*job // in order; at most limit
	free     []*job
	reading  *job   // the job whose output was returned last
	buffered []byte // read, but not part of a job yet
	at       int64  // offset of buffered in the source
	seen     int    // bytes of buffered that were searched without finding a member
}

// newParallel starts the workers.
func newParallel(in *flate.Input, workers int, sizes jobSizes) *parallelMembers {
	p := &parallelMembers{in: in, sizes: sizes, limit: workers + 1, todo: make(chan *job, workers+1)}
	for range workers {
		p.wg.Go(p.work)
	}
	return p
}

// close stops the workers.
func (p *parallelMembers) close() {
	close(p.todo)
	p.wg.Wait()
}

// enter activates p at the start of a member, unless too many guesses were
// wrong.
func (p *parallelMembers) enter() bool {
	p.active, p.at = !p.ended && p.misses < maxMisses, p.in.Offset()
	return p.active
}

// nextJob returns the output of the next job, valid until the next call. If it
// returns nil, p is no longer active, and the input is at the start of a
// member, for the serial decoder, or at the end of the source.
func (p *parallelMembers) nextJob() []byte {
	if p.reading != nil {
		p.free = append(p.free, p.reading)
		p.reading = nil
	}
	for {
		more := true
		for more && len(p.queue) < p.limit && !p.oldestDone() {
			more = p.cutJob()
		}
		if len(p.queue) == 0 {
			if len(p.buffered) > 0 {
				p.misses++ // buffered contains no start of a member
			}
			p.leave()
			return nil
		}
		j := p.queue[0]
		<-j.done
		if !j.good {
			p.misses++
			p.leave()
			return nil
		}
		p.queue = p.queue[1:]
		p.reading = j
		if len(j.out) > 0 {
			return j.out
		}
		p.free = append(p.free, j)
		p.reading = nil
	}
}

// oldestDone reports whether the oldest job is done.
func (p *parallelMembers) oldestDone() bool {
	if len(p.queue) == 0 {
		return false
	}
	select {
	case <-p.queue[0].done:
		return true
	default:
		return false
	}
}

// leave gives all input that was not decoded back to the source.
func (p *parallelMembers) leave() {
	var pieces [][]byte
	for _, j := range p.queue {
		pieces = append(pieces, j.in) // not reused, because a worker may still read it
	}
	p.in.Prepend(append(pieces, p.buffered)...)
	p.queue, p.buffered, p.seen, p.active = nil, nil, 0, false
	p.free, p.reading = nil, nil // other decoders need the memory
}

// cutJob reads until another job is complete and hands it to the workers. It
// returns false if no job can be made.
func (p *parallelMembers) cutJob() bool {
	for {
		if end := memberAt(p.buffered, max(p.seen, p.sizes.min)); end >= 0 {
			p.pushJob(end)
			return true
		}
		p.seen = max(0, len(p.buffered)-headerLen+1)
		switch {
		case p.ended && len(p.buffered) > 0 && p.in.Err() == io.EOF:
			p.pushJob(len(p.buffered))
			return true
		case p.ended, len(p.buffered) >= p.sizes.max:
			return false
		}
		if p.buffered == nil {
			p.buffered = make([]byte, 0, p.sizes.max+readMost)
		}
		n, err := p.in.Read(p.buffered[len(p.buffered):min(cap(p.buffered), len(p.buffered)+readMost)])
		p.buffered = p.buffered[:len(p.buffered)+n]
		p.ended = err != nil
	}
}

// pushJob makes a job of the first n bytes of buffered.
func (p *parallelMembers) pushJob(n int) {
	j := p.newJob()
	rest := append(j.in[:0], p.buffered[n:]...)
	j.in, p.buffered, p.seen = p.buffered[:n], rest, 0
	j.at = p.at
	p.at += int64(n)
	p.cuts++
	p.queue = append(p.queue, j)
	p.todo <- j // never blocks: the channel has room for the whole queue
}

// newJob returns a free job with its buffers, or a new one.
func (p *parallelMembers) newJob() *job {
	if n := len(p.free); n > 0 {
		j := p.free[n-1]
		p.free = p.free[:n-1]
		j.done = make(chan struct{})
		return j
	}
	// The buffers get their full size at once, because unused pages cost
	// nothing, whereas growing a buffer copies it.
	return &job{
		in:   make([]byte, 0, p.sizes.max+readMost),
		out:  make([]byte, 0, p.sizes.out+pieceBytes),
		done: make(chan struct{}),
	}
}

// work decodes jobs until close.
func (p *parallelMembers) work() {
	src := new(bytes.Reader)
	m := &members{in: flate.NewInput(src)}
	m.dec = flate.NewDecoder(m.in)
	for j := range p.todo {
		src.Reset(j.in)
		m.in.Reset(src)
		// After a panic j.good is false, so the serial decoder decodes j again
		// and reports the error.
		j.good = false
		_ = panics.Guard(func() { j.out, j.head, j.good = m.decodeAll(j.out[:0], p.sizes.out) })
		close(j.done)
	}
}

// decodeAll decodes all of m.in and appends to out. head is the length of the
// first header. good means that m.in consists of whole members with at most the
// given output.
func (m *members) decodeAll(out []byte, most int) (_ []byte, head int, good bool) {
	if m.readHeader() != nil {
		return out, 0, false
	}
	head = int(m.in.Offset())
	m.dec.Reset(m.in)
	m.padded = false
	for {
		p, err := m.nextOutput()
		if err != nil {
			return out, head, err == io.EOF && !m.padded
		}
		if out = append(out, p...); len(out) > most {
			return out, head, false
		}
	}
}

const headerLen = 10

// memberAt returns the index of the first possible member header in p[from:],
// or -1. It also checks the bytes for compression level and system, which
// excludes most false matches.
func memberAt(p []byte, from int) int {
	for from < len(p) {
		i := bytes.Index(p[from:], []byte{0x1f, 0x8b, 8})
		if i < 0 || len(p)-from-i < headerLen {
			return -1
		}
		from += i
		flags, level, system := p[from+3], p[from+8], p[from+9]
		if flags&flagReserved == 0 && (level == 0 || level == 2 || level == 4) && (system <= 13 || system == 255) {
			return from
		}
		from++
	}
	return -1
}
