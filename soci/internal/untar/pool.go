package untar

import (
	"context"
	"io"
	"sync"

	"golang.org/x/sync/semaphore"
)

// Pool is the writers, and the buffers for streams without any of their own, that all
// layers of a process share.
//
// No deadlock: a parser waits for the pool only (for a buffer, or for tasks that it
// has handed over), while it holds nothing that a task needs; a writer waits for
// the kernel only.
type Pool struct {
	mem   *semaphore.Weighted
	bytes int64
	free  sync.Pool
	wg    sync.WaitGroup

	mu     sync.Mutex // guards what follows and the lanes
	wake   sync.Cond
	ready  []*taskQueue // lanes with something to do that no writer is at
	idle   int          // writers that wait
	closed bool
}

// chunk is the size of a buffer in bytes, and with it of a write to a large file:
// big enough to make system calls cheap, small enough to stay in the second-level
// cache between the one who fills it and the one who writes it.
const chunk = 256 << 10

// MinPoolBytes is the least that keeps one parser and one writer busy.
const MinPoolBytes = 4 * chunk

// task is a piece of work for a writer.
type task interface{ run() }

// taskQueue is tasks that run one after the other, in order: the files of one directory,
// the pieces of one file. (Several threads that create files in one directory, or
// write to one file, only spin on its lock: CPU time goes up, work does not.)
type taskQueue struct {
	tasks []task
	busy  bool // a writer is at it, or it is in ready
	held  bool // its tasks must wait, see release
}

// tasksPerRound is how many tasks of a lane run before other lanes have a turn.
const tasksPerRound = 8

// NewPool starts writers goroutines that use at most bytes of buffers.
func NewPool(writers int, bytes int64) *Pool {
	bytes = max(bytes, MinPoolBytes)
	p := &Pool{mem: semaphore.NewWeighted(bytes), bytes: bytes}
	p.wake.L = &p.mu
	for range max(writers, 1) {
		p.wg.Go(p.runWriter)
	}
	return p
}

// Bytes is the most that the buffers of the pool may take.
func (p *Pool) Bytes() int64 { return p.bytes }

// Close ends the writers. No extraction may be running.
func (p *Pool) Close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.wake.Broadcast()
	p.wg.Wait()
}

// runWriter is the life of one writer.
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

// serveLocked runs some tasks of a lane. p.mu is held, but not while a task runs.
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

// submit adds a task to a lane.
func (p *Pool) submit(l *taskQueue, t task) {
	p.mu.Lock()
	defer p.mu.Unlock()
	l.tasks = append(l.tasks, t)
	p.startLocked(l)
}

// startLocked makes a lane ready if it may run. p.mu is held.
func (p *Pool) startLocked(l *taskQueue) {
	if l.busy || l.held || len(l.tasks) == 0 {
		return
	}
	l.busy = true
	p.ready = append(p.ready, l)
	p.wake.Signal()
}

// release lets the tasks of a held lane run.
func (p *Pool) release(l *taskQueue) {
	p.mu.Lock()
	defer p.mu.Unlock()
	l.held = false
	p.startLocked(l)
}

// offer hands a task to a writer that has nothing to do, if there is one.
func (p *Pool) offer(t task) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.idle <= len(p.ready) {
		return false
	}
	p.startLocked(&taskQueue{tasks: []task{t}})
	return true
}

// get returns a buffer.
func (p *Pool) get(ctx context.Context) (*[chunk]byte, error) {
	if err := p.mem.Acquire(ctx, chunk); err != nil {
		return nil, context.Cause(ctx)
	}
	if b, ok := p.free.Get().(*[chunk]byte); ok {
		return b, nil
	}
	return new([chunk]byte), nil
}

func (p *Pool) put(b *[chunk]byte) {
	p.free.Put(b)
	p.mem.Release(chunk)
}

// copied is a BlockReader of an ordinary stream. It copies into buffers of the pool.
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
	for n < chunk && c.err == nil {
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
