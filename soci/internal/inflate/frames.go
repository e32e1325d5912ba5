package inflate

import (
	"io"
	"sync"

	"github.com/klauspost/compress/zstd"

	"github.com/penstock/penstock/soci/internal/inflate/flate"
	"github.com/penstock/penstock/soci/internal/panics"
)

// frameSizes are the limits of what workers decode of a zstd blob; tests make them small.
type frameSizes struct {
	min  int // compressed bytes from which a job is full; it is, too, with a quarter of out
	in   int // a frame that is longer is decoded serially
	out  int // so is one that may expand further
	held int // by all jobs, in bytes; one takes less than min, in and 1.25 times out
}

// The frames of zstd:chunked have 64 KiB of tar or a file, those of the seekable format
// 2 MiB, those of pzstd 8 MiB.
func sizesFor(workers int) frameSizes {
	return frameSizes{min: 256 << 10, in: 5 << 20, out: 8 << 20, held: workers * WorkerMemory}
}

// zstdBlock is the most that a block expands to, if the window is not smaller (RFC 8878,
// section 3.1.1.2.4).
const zstdBlock = 128 << 10

// frameJob is a run of whole frames.
type frameJob struct {
	in, out []byte
	at      int64 // offset in the blob
	bound   int   // of out
	held    int   // bytes, with what out is going to take
	good    bool  // the worker's, as out, until done
	done    chan struct{}
}

// frames decodes a zstd blob of many frames on several goroutines, in order. It is
// driven by the reader: the source is read by it alone, and the workers never wait for
// anything but work.
//
// Where a frame ends is told by the headers of its blocks (RFC 8878, section 3.1.1), and
// how far it may expand by their number. What is too large for a job, can't be read or
// turns out to be damaged goes to the serial decoder, with all that follows: it says what
// is wrong with it.
type frames struct {
	in    *flate.Input
	opts  Options
	sizes frameSizes
	todo  chan *frameJob
	wg    sync.WaitGroup
	limit int // of jobs under way
	idle  int // workers that are not started: all, until the second job

	queue   []*frameJob // in order
	free    []*frameJob
	reading *frameJob // its output is read
	out     []byte    // of it, not read
	partial []byte    // read of a frame that is no job
	last    bool      // nothing that can be cut follows
	cuts    int
	serial  *serial
	sent    int64 // bytes of output before what is read next
}

func newFrames(in *flate.Input, opts Options, workers int) *frames {
	return &frames{in: in, opts: opts, sizes: sizesFor(workers), idle: workers, limit: workers + 2, todo: make(chan *frameJob, workers+2)}
}

// close ends the workers.
func (f *frames) close() {
	close(f.todo)
	f.wg.Wait()
	if f.serial != nil {
		f.serial.close()
	}
}

// Read is io.Reader.
func (f *frames) Read(p []byte) (int, error) {
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

// next makes the output of another job the one that is read; false if there is none.
func (f *frames) nextJob() bool {
	if f.reading != nil {
		f.free = append(f.free, f.reading)
		f.reading = nil
	}
	for !f.last && len(f.queue) < f.limit && f.hasRoom() && (len(f.queue) == 0 || !isDone(f.queue[0])) {
		if j := f.cutJob(); j != nil {
			f.submit(j)
		}
	}
	if len(f.queue) == 0 || f.idle > 0 { // a blob of one job is not worth a worker
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

// give hands j to the workers, which begin with the second job.
func (f *frames) submit(j *frameJob) {
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

// room reports whether another job, of any size, fits beside those there are.
func (f *frames) hasRoom() bool {
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

// cut reads whole frames until there are enough for a job; nil if none comes.
func (f *frames) cutJob() *frameJob {
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

// frame appends the next frame to j.in; it returns the most that it expands to. If that
// is not ok, what was appended is the beginning of a frame for the serial decoder.
func (f *frames) takeFrame(j *frameJob) (bound int, ok bool) {
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

// take appends the next n bytes of the source to j.in; fewer if it has no more.
func (f *frames) takeBytes(j *frameJob, n int) bool {
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

// leave gives what was not handed out back to the source and goes on serially.
func (f *frames) leaveToSerial() (err error) {
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

func (f *frames) work() {
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
	// After a panic it is not good either: the serial decoder says what is wrong.
	_ = panics.Guard(func() {
		out, err := dec.DecodeAll(j.in, j.out[:0])
		if j.good = err == nil; j.good {
			j.out = out
		}
	})
}
