package inflate

import (
	"io"
	"sync"

	"github.com/klauspost/compress/zstd"

	"github.com/penstock/penstock/soci/internal/inflate/flate"
	"github.com/penstock/penstock/soci/internal/panics"
)

// frameSizes are the limits of jobs in bytes. Tests make them small.
type frameSizes struct {
	min  int // compressed bytes of a full job; a job with a quarter of out is full, too
	in   int // most compressed bytes of a frame; longer ones are decoded serially
	out  int // most output of a frame; larger ones are decoded serially
	held int // memory of all jobs; each takes less than min + in + 1.25*out
}

// sizesFor returns the limits for a number of workers. A frame of zstd:chunked
// holds 64 KiB of tar or one file, a frame of the seekable format 2 MiB, and a
// frame of pzstd 8 MiB.
func sizesFor(workers int) frameSizes {
	return frameSizes{min: 256 << 10, in: 5 << 20, out: 8 << 20, held: workers * WorkerMemory}
}

// zstdBlock bounds the output of one block in bytes. A smaller window lowers
// the bound (RFC 8878, section 3.1.1.2.4).
const zstdBlock = 128 << 10

// frameJob is a run of whole frames.
type frameJob struct {
	in, out []byte
	at      int64 // offset in the blob
	bound   int   // most bytes of out
	held    int   // memory in bytes, including the memory that out will take
	good    bool  // out is complete; like out, it belongs to the worker until done is closed
	done    chan struct{}
}

// parallelFrames decodes a zstd blob of many frames on several goroutines, in
// order. Only the goroutine that calls Read reads the source, and the workers
// wait only for jobs.
//
// The headers of the blocks determine where a frame ends (RFC 8878, section
// 3.1.1), and the number of blocks bounds its output. The first frame that is
// too large for a job, unreadable or damaged goes to the serial decoder, with
// everything after it, so that the serial decoder reports the error.
type parallelFrames struct {
	in    *flate.Input
	opts  Options
	sizes frameSizes
	todo  chan *frameJob
	wg    sync.WaitGroup
	limit int // bound on the number of queued jobs
	idle  int // number of workers to start with the second job; 0 after that

	queue   []*frameJob // in order
	free    []*frameJob
	reading *frameJob // the job whose output Read returns
	out     []byte    // unread output of reading
	partial []byte    // the start of a frame that is left to the serial decoder
	last    bool      // no further job can be cut
	cuts    int
	serial  *serialZstd
	sent    int64 // bytes of output returned or in out
}

func newFrames(in *flate.Input, opts Options, workers int) *parallelFrames {
	return &parallelFrames{in: in, opts: opts, sizes: sizesFor(workers), idle: workers, limit: workers + 2, todo: make(chan *frameJob, workers+2)}
}

// close stops the workers.
func (f *parallelFrames) close() {
	close(f.todo)
	f.wg.Wait()
	if f.serial != nil {
		f.serial.close()
	}
}

// Read implements io.Reader.
func (f *parallelFrames) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for len(f.out) == 0 && f.serial == nil {
		if !f.nextJob() {
			if err := f.leaveToSerial(); err != nil {
				return 0, err
			}
		}
	}
	if len(f.out) > 0 {
		n := copy(p, f.out)
		f.out = f.out[n:]
		return n, nil
	}
	return f.serial.Read(p)
}

// nextJob makes the output of the next job available. It returns false if no
// job is left.
func (f *parallelFrames) nextJob() bool {
	if f.reading != nil {
		f.free = append(f.free, f.reading)
		f.reading = nil
	}
	for !f.last && len(f.queue) < f.limit && f.hasRoom() && (len(f.queue) == 0 || !isDone(f.queue[0])) {
		if j := f.cutJob(); j != nil {
			f.submit(j)
		}
	}
	if len(f.queue) == 0 || f.idle > 0 { // a single job is not worth a worker
		return false
	}
	j := f.queue[0]
	<-j.done
	if !j.good {
		return false
	}
	f.queue = f.queue[1:]
	f.reading, f.out = j, j.out
	if f.opts.Record != nil {
		f.opts.Record.Member(j.at, f.sent, 0)
	}
	f.sent += int64(len(j.out))
	return true
}

func isDone(j *frameJob) bool {
	select {
	case <-j.done:
		return true
	default:
		return false
	}
}

// submit hands j to the workers, which start with the second job.
func (f *parallelFrames) submit(j *frameJob) {
	f.queue = append(f.queue, j)
	f.cuts++
	if f.idle == 0 {
		f.todo <- j
		return
	}
	if len(f.queue) < 2 {
		return
	}
	for ; f.idle > 0; f.idle-- {
		f.wg.Go(f.work)
	}
	for _, j := range f.queue {
		f.todo <- j
	}
}

// hasRoom reports whether the memory bound allows another job of the largest
// size.
func (f *parallelFrames) hasRoom() bool {
	if len(f.queue) == 0 {
		return true
	}
	sum := f.sizes.min + f.sizes.in + f.sizes.out*5/4
	for _, j := range f.queue {
		sum += j.held
	}
	if f.reading != nil {
		sum += f.reading.held
	}
	for _, j := range f.free {
		sum += j.held
	}
	if sum > f.sizes.held && len(f.free) > 0 {
		f.free = nil
		return f.hasRoom()
	}
	return sum <= f.sizes.held
}

// cutJob reads whole frames for a job. It returns nil if it cannot read a whole
// frame.
func (f *parallelFrames) cutJob() *frameJob {
	j := &frameJob{}
	if n := len(f.free); n > 0 {
		j, f.free = f.free[n-1], f.free[:n-1]
	}
	*j = frameJob{in: j.in[:0], out: j.out[:0], at: f.in.Offset(), done: make(chan struct{})}
	for !f.last && len(j.in) < f.sizes.min && j.bound <= f.sizes.out/4 {
		whole := len(j.in)
		bound, ok := f.takeFrame(j)
		if !ok {
			f.partial, f.last = append(f.partial, j.in[whole:]...), true
			j.in = j.in[:whole]
			break
		}
		j.bound += bound
	}
	if len(j.in) == 0 {
		return nil
	}
	j.held = cap(j.in) + max(cap(j.out), j.bound)
	return j
}

// takeFrame appends the next frame to j.in and returns a bound on its output.
// If ok is false, the appended bytes are the start of a frame for the serial
// decoder.
func (f *parallelFrames) takeFrame(j *frameJob) (bound int, ok bool) {
	var h zstd.Header
	head := f.in.Peek(zstd.HeaderMaxSize)
	if len(head) == 0 || h.Decode(head) != nil {
		return 0, false
	}
	if h.Skippable {
		size := int64(h.HeaderSize) + int64(h.SkippableSize)
		return 0, size <= int64(f.sizes.in) && f.takeBytes(j, int(size))
	}
	if h.DictionaryID != 0 || windowOf(&h) > uint64(f.opts.MaxWindow) || h.HasFCS && h.FrameContentSize > uint64(f.sizes.out) { //nolint:gosec // G115: a limit
		return 0, false
	}
	block := zstdBlock
	if !h.SingleSegment {
		block = int(min(uint64(block), h.WindowSize)) //nolint:gosec // G115: at most zstdBlock
	}
	begin := len(j.in)
	if !f.takeBytes(j, h.HeaderSize) {
		return 0, false
	}
	for last := false; !last; {
		if !f.takeBytes(j, blockHeader) {
			return 0, false
		}
		var kind, size int
		last, kind, size = parseBlock(j.in[len(j.in)-blockHeader:])
		out := size
		switch kind {
		case blockRaw:
		case blockRepeated:
			size = 1
		case blockCompressed:
			out = block
		default: // reserved
			return 0, false
		}
		bound += out
		if size > zstdBlock || bound > f.sizes.out && !h.HasFCS || len(j.in)-begin+size > f.sizes.in || !f.takeBytes(j, size) {
			return 0, false
		}
	}
	if h.HasFCS {
		bound = int(h.FrameContentSize) //nolint:gosec // G115: below a limit
	}
	return bound, !h.HasCheckSum || f.takeBytes(j, 4)
}

// takeBytes appends the next n bytes of the source to j.in. It returns false if
// the source has fewer.
func (f *parallelFrames) takeBytes(j *frameJob, n int) bool {
	at := len(j.in)
	for n > len(j.in)-at {
		head := f.in.Peek(min(4096, n-(len(j.in)-at)))
		if len(head) == 0 {
			return false
		}
		j.in = append(j.in, head...)
		f.in.Skip(len(head))
	}
	return true
}

// leaveToSerial returns the input of the remaining jobs to the source and
// starts the serial decoder. It returns io.EOF if the blob has ended.
func (f *parallelFrames) leaveToSerial() (err error) {
	if len(f.queue) == 0 && len(f.partial) == 0 && f.cuts > 0 && len(f.in.Peek(1)) == 0 && f.in.Err() == io.EOF {
		return io.EOF
	}
	var back [][]byte
	for _, j := range f.queue {
		if f.idle == 0 {
			<-j.done
		}
		back = append(back, j.in)
	}
	f.in.Prepend(append(back, f.partial)...)
	f.queue, f.free, f.partial, f.last = nil, nil, nil, true
	f.serial, err = newSerial(f.in, f.opts, f.sent)
	return err
}

func (f *parallelFrames) work() {
	dec, err := newZstd(nil, f.opts.MaxWindow, zstd.WithDecoderMaxMemory(uint64(2*f.sizes.out))) //nolint:gosec // G115: positive
	for j := range f.todo {
		if err == nil {
			j.decode(dec)
		}
		close(j.done)
	}
	if err == nil {
		dec.Close()
	}
}

func (j *frameJob) decode(dec *zstd.Decoder) {
	if cap(j.out) < j.bound {
		j.out = make([]byte, 0, j.bound)
	}
	j.good = false
	// After a panic j.good is false, so the serial decoder decodes j again and
	// reports the error.
	_ = panics.Guard(func() {
		out, err := dec.DecodeAll(j.in, j.out[:0])
		if j.good = err == nil; j.good {
			j.out = out
		}
	})
}
