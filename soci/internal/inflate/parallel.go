package inflate

import (
	"bytes"
	"io"
	"sync"

	"github.com/penstock/penstock/soci/internal/inflate/flate"
	"github.com/penstock/penstock/soci/internal/panics"
)

const (
	// jobMin is the compressed size from which a job is cut at the next member: a
	// quarter of a millisecond of work, beside which handing it over is little. With
	// more, the output leaves the second cache level before it is read, and the first
	// touch of the memory for it costs as much as is gained.
	jobMin = 64 << 10
	// jobMax: where no member begins for so long, the blob is decoded serially up
	// to its next member.
	jobMax = 2 << 20
	// jobOut bounds what a job may expand to; one that exceeds it is decoded
	// serially, which needs no memory for its output.
	jobOut = 4 << 20
	// maxMisses is how many jobs may be cut wrongly, or not at all, before the
	// guessing stops. A wrong cut is what looks like a header and is none: the work on
	// the job is lost.
	maxMisses = 8
)

// readMost is how much is read between two looks for a member: little, for what is
// behind one is moved.
const readMost = 32 << 10 // bytes

// jobSizes are the limits of a job; tests make them small.
type jobSizes struct{ min, max, out int }

// A job is a run of members, if the guess of its end is right.
type job struct {
	in   []byte
	out  []byte
	at   int64 // where in begins in the source
	head int   // length of the header of its first member
	good bool  // out is what in holds, to its last byte
	done chan struct{}
}

// parallel decodes members on several goroutines, in order. It is driven by the
// reader: the source is read by it alone, and the workers never wait for anything
// but work, so that close always returns.
//
// Members are found by their headers. That is a guess; it is right if the members
// of a job end where the next one was found, which the worker sees. If not, the
// bytes go back to the serial decoder, which goes on until a member ends.
type parallel struct {
	in     *flate.Input
	sizes  jobSizes
	limit  int // of queued jobs
	todo   chan *job
	wg     sync.WaitGroup
	active bool
	misses int
	cuts   int  // jobs so far
	ended  bool // the source has no more

	queue    []*job // cut, in order; at most limit
	free     []*job
	reading  *job   // its output was handed out
	buffered []byte // read and not cut
	at       int64  // where it begins in the source
	seen     int    // of acc: no job can be cut before
}

// newParallel starts the workers.
func newParallel(in *flate.Input, workers int, sizes jobSizes) *parallel {
	p := &parallel{in: in, sizes: sizes, limit: workers + 1, todo: make(chan *job, workers+1)}
	for range workers {
		p.wg.Go(p.work)
	}
	return p
}

// close ends the workers.
func (p *parallel) close() {
	close(p.todo)
	p.wg.Wait()
}

// enter is called where a member begins; false if guessing has no point any more.
func (p *parallel) enter() bool {
	p.active, p.at = !p.ended && p.misses < maxMisses, p.in.Offset()
	return p.active
}

// next returns the output of another job, valid until the next call. Without one p
// is not active any more, and the input is at a member for the serial decoder, or at
// the end of the source.
func (p *parallel) nextJob() []byte {
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
				p.misses++ // so much without a member was read for nothing
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

// ready reports whether the oldest job is done.
func (p *parallel) oldestDone() bool {
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

// leave gives everything that was read and not decoded back to the input.
func (p *parallel) leave() {
	var pieces [][]byte
	for _, j := range p.queue {
		pieces = append(pieces, j.in) // not reused: a worker may still read it, too
	}
	p.in.Prepend(append(pieces, p.buffered)...)
	p.queue, p.buffered, p.seen, p.active = nil, nil, 0, false
	p.free, p.reading = nil, nil // the memory is for other ways now
}

// cut reads until another job is complete and hands it to the workers; false if
// there is none.
func (p *parallel) cutJob() bool {
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

// push makes a job of the first n bytes that were read.
func (p *parallel) pushJob(n int) {
	j := p.newJob()
	rest := append(j.in[:0], p.buffered[n:]...)
	j.in, p.buffered, p.seen = p.buffered[:n], rest, 0
	j.at = p.at
	p.at += int64(n)
	p.cuts++
	p.queue = append(p.queue, j)
	p.todo <- j // has room for the queue; the workers may be busy with jobs that were given up
}

// take returns a job that is free, with its buffers, or a new one.
func (p *parallel) newJob() *job {
	if n := len(p.free); n > 0 {
		j := p.free[n-1]
		p.free = p.free[:n-1]
		j.done = make(chan struct{})
		return j
	}
	// All at once: the pages that are not used cost nothing, and growing does.
	return &job{
		in:   make([]byte, 0, p.sizes.max+readMost),
		out:  make([]byte, 0, p.sizes.out+pieceBytes),
		done: make(chan struct{}),
	}
}

// work decodes jobs until close.
func (p *parallel) work() {
	src := new(bytes.Reader)
	m := &members{in: flate.NewInput(src)}
	m.dec = flate.NewDecoder(m.in)
	for j := range p.todo {
		src.Reset(j.in)
		m.in.Reset(src)
		// After a panic it is not good: the serial decoder says what is wrong.
		j.good = false
		_ = panics.Guard(func() { j.out, j.head, j.good = m.decodeAll(j.out[:0], p.sizes.out) })
		close(j.done)
	}
}

// all decodes what m.in has; good if that is members and nothing else, of at most
// so many bytes; head is the length of the first header.
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

// memberAt finds what looks like the header of a member in p[from:]; -1 without one.
// Bytes that have no other use than to tell systems apart are checked as well: what
// they exclude is mostly chance.
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
