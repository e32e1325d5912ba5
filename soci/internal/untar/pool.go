package untar

import (
	"context"
	"io"
	"sync"

	"golang.org/x/sync/semaphore"
)

// Pool holds the writers, and the buffers for streams that do not implement
// BlockReader. All layers of a process share it.
//
// There is no deadlock: a parser waits only for the pool (for a buffer, or for
// its tasks), and holds nothing that a task needs; a writer waits only for the
// kernel.
type Pool struct {
	mem   *semaphore.Weighted
	bytes int64
	free  sync.Pool
	wg    sync.WaitGroup

	mu     sync.Mutex // guards the fields below and all task queues
	wake   sync.Cond
	ready  []*taskQueue // queues with tasks that no writer serves
	idle   int          // number of waiting writers
	closed bool
}

// bufferBytes is the size of a buffer, and of a write to a large file, in
// bytes. It is large enough to make the cost of system calls negligible, and
// small enough that the data is still in the second-level cache when it is
// written.
const bufferBytes = 256 << 10

// MinPoolBytes is the least memory that keeps one parser and one writer busy.
const MinPoolBytes = 4 * bufferBytes

// task is a unit of work of a writer.
type task interface{ run() }

// taskQueue is a queue of tasks that run one after the other, in order: the
// files of one directory, or the pieces of one file. Threads that create files
// in one directory, or write to one file, would contend for its lock, which
// costs CPU time and gains no speed.
type taskQueue struct {
	tasks []task
	busy  bool // a writer runs its tasks, or the queue is in ready
	held  bool // its tasks must wait for release
}

// tasksPerRound is the number of tasks of a queue that run before other queues
// are served.
const tasksPerRound = 8

// NewPool returns a Pool with the given number of writers, whose buffers take
// at most the given number of bytes (but at least MinPoolBytes).
func NewPool(writers int, bytes int64) *Pool {
	bytes = max(bytes, MinPoolBytes)
	p := &Pool{mem: semaphore.NewWeighted(bytes), bytes: bytes}
	p.wake.L = &p.mu
	for range max(writers, 1) {
		p.wg.Go(p.runWriter)
	}
	return p
}

// Bytes returns the bound on the memory of the buffers.
func (p *Pool) Bytes() int64 { return p.bytes }

// Close ends the writers. No extraction may be running.
func (p *Pool) Close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.wake.Broadcast()
	p.wg.Wait()
}

// runWriter runs one writer until Close.
func (p *Pool) runWriter() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		for len(p.ready) == 0 {
			if p.closed {
				return
			}
			p.idle++
			p.wake.Wait()
			p.idle--
		}
		l := p.ready[0]
		p.ready = p.ready[1:]
		p.serveLocked(l)
	}
}

// serveLocked runs up to tasksPerRound tasks of a queue. mu must be held; it is
// released while a task runs.
func (p *Pool) serveLocked(l *taskQueue) {
	for range tasksPerRound {
		if len(l.tasks) == 0 {
			break
		}
		t := l.tasks[0]
		l.tasks[0] = nil
		l.tasks = l.tasks[1:]
		p.mu.Unlock()
		t.run()
		p.mu.Lock()
	}
	if l.busy = len(l.tasks) > 0; l.busy {
		p.ready = append(p.ready, l)
	} else {
		l.tasks = nil
	}
}

// submit adds a task to a queue.
func (p *Pool) submit(l *taskQueue, t task) {
	p.mu.Lock()
	defer p.mu.Unlock()
	l.tasks = append(l.tasks, t)
	p.startLocked(l)
}

// startLocked makes a queue ready if its tasks may run. mu must be held.
func (p *Pool) startLocked(l *taskQueue) {
	if l.busy || l.held || len(l.tasks) == 0 {
		return
	}
	l.busy = true
	p.ready = append(p.ready, l)
	p.wake.Signal()
}

// release lets the tasks of a held queue run.
func (p *Pool) release(l *taskQueue) {
	p.mu.Lock()
	defer p.mu.Unlock()
	l.held = false
	p.startLocked(l)
}

// offer hands a task to an idle writer. It returns false if no writer is idle.
func (p *Pool) offer(t task) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.idle <= len(p.ready) {
		return false
	}
	p.startLocked(&taskQueue{tasks: []task{t}})
	return true
}

// get returns a buffer. It waits until the memory bound allows another one.
func (p *Pool) get(ctx context.Context) (*[bufferBytes]byte, error) {
	if err := p.mem.Acquire(ctx, bufferBytes); err != nil {
		return nil, context.Cause(ctx)
	}
	if b, ok := p.free.Get().(*[bufferBytes]byte); ok {
		return b, nil
	}
	return new([bufferBytes]byte), nil
}

func (p *Pool) put(b *[bufferBytes]byte) {
	p.free.Put(b)
	p.mem.Release(bufferBytes)
}

// copied is a BlockReader of an ordinary stream. It copies into buffers of the
// pool.
type copied struct {
	r    io.Reader
	pool *Pool
	err  error
}

// NextBlock implements BlockReader.
func (c *copied) NextBlock(ctx context.Context) (Block, error) {
	if c.err != nil {
		return Block{}, c.err
	}
	buf, err := c.pool.get(ctx)
	if err != nil {
		return Block{}, err
	}
	n := 0
	for n < bufferBytes && c.err == nil {
		var more int
		more, c.err = c.r.Read(buf[n:])
		n += more
	}
	if n == 0 {
		c.pool.put(buf)
		return Block{}, c.err
	}
	return Block{Data: buf[:n], Release: func() { c.pool.put(buf) }}, nil
}
