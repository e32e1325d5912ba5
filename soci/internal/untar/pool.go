package untar

import (
	"context"
	"hash/fnv"
	"io"
	"sync"

	"golang.org/x/sync/semaphore"
)

// Pool is the file writers and the buffers that all layers of a process share.
//
// No deadlock: a parser blocks on the pool (for a buffer, a free writer or a path
// in work) only, and a writer blocks on the kernel only.
type Pool struct {
	jobs  []chan job // one for each writer
	mem   *semaphore.Weighted
	bytes int64
	free  [len(classes)]sync.Pool
	wg    sync.WaitGroup
}

// classes are the buffer sizes in bytes. Half of the files of a system image are
// below 4 KiB and nine of ten below 64 KiB, so one size would waste most of the
// pool. The last is also the piece in which larger files are written: big enough
// to make system calls cheap, small enough to stay in the second-level cache.
var classes = [...]int{4 << 10, 64 << 10, 512 << 10}

const chunk = 512 << 10

// queue is how many pieces may wait for one writer: enough that a run of files
// in one directory does not hold up the parser. Their bytes are bounded by the
// pool, not by this.
const queue = 64

// MinPoolBytes is the least that keeps one parser and one writer busy.
const MinPoolBytes = 2 * chunk

// job writes one piece of one file.
type job struct {
	f    *outFile
	buf  []byte // from the pool, cut to the data; nil when there is nothing to write
	off  int64
	cost int64
}

// NewPool starts writers goroutines that use at most bytes of buffers.
func NewPool(writers int, bytes int64) *Pool {
	bytes = max(bytes, MinPoolBytes)
	p := &Pool{
		jobs:  make([]chan job, max(writers, 1)),
		mem:   semaphore.NewWeighted(bytes),
		bytes: bytes,
	}
	for i := range p.jobs {
		p.jobs[i] = make(chan job, queue)
		p.wg.Go(func() {
			for j := range p.jobs[i] {
				j.f.run(j)
				p.put(j.buf, j.cost)
			}
		})
	}
	return p
}

// Bytes is the most that the buffers of the pool may take.
func (p *Pool) Bytes() int64 { return p.bytes }

// Close ends the writers. No extraction may be running.
func (p *Pool) Close() {
	for _, c := range p.jobs {
		close(c)
	}
	p.wg.Wait()
}

// get returns a buffer of n <= chunk bytes and what put must be told of it.
func (p *Pool) get(ctx context.Context, n int) ([]byte, int64, error) {
	i := 0
	for classes[i] < n {
		i++
	}
	cost := int64(classes[i])
	if err := p.mem.Acquire(ctx, cost); err != nil {
		return nil, 0, err
	}
	if b, ok := p.free[i].Get().(*[]byte); ok {
		return (*b)[:n], cost, nil
	}
	return make([]byte, classes[i])[:n], cost, nil
}

func (p *Pool) put(buf []byte, cost int64) {
	if cost == 0 {
		return
	}
	buf = buf[:cap(buf)]
	for i, size := range classes {
		if size == len(buf) {
			p.free[i].Put(&buf)
		}
	}
	p.mem.Release(cost)
}

// send hands a piece to a writer: the same one for all files of a directory.
// Creating files in one directory from several threads only makes them spin on
// its lock (on a busy ext4, CPU time went up with the writers, work did not).
func (p *Pool) send(j job) {
	dir, _ := split(j.f.path)
	h := fnv.New32a()
	_, _ = io.WriteString(h, dir)              // a hash takes everything
	p.jobs[int(h.Sum32()>>1)%len(p.jobs)] <- j // 31 bits fit an int everywhere
}
