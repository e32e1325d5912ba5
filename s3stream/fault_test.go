package s3stream_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/penstock/penstock/internal/testorigin"
	"github.com/penstock/penstock/internal/testport"
	"github.com/penstock/penstock/s3stream"
)

// chainOf is a chain (or another shape) of n workers whose links all go through proxies: down[i]
// is in front of the leader's listener for worker i's control connection,
// front[i] in front of worker i's own listener. Counted from 1.
type chainOf struct {
	*cast
	control, front []*proxy
}

// newChain builds it; see(i) is what front[i] does to bytes on their way down.
func newChain(t *testing.T, n int, o s3stream.LeaderOptions, see func(c *chainOf, i int) func(int, int64, []byte)) *chainOf {
	t.Helper()
	o.Workers = n
	if o.Topology == "" {
		o.Topology = "chain"
	}
	c := &chainOf{cast: newCast(t, o), control: make([]*proxy, n+1), front: make([]*proxy, n+1)}
	c.opts = func(i int, o *s3stream.WorkerOptions) {
		i++
		var down func(int, int64, []byte)
		if see != nil {
			down = see(c, i)
		}
		c.control[i] = newProxy(t, c.addr, nil)
		// The proxy has to know where the worker will listen.
		port := testport.Addr(t)
		c.front[i] = newProxy(t, port, down)
		o.Leader, o.Listen, o.Advertise = c.control[i].addr(), port, c.front[i].addr()
	}
	return c
}

// finish checks that everybody but the workers in lost has everything, and
// returns the leader's result.
func (c *chainOf) finish(want map[string][]byte, lost ...int) result {
	c.t.Helper()
	lead := <-c.lead
	isLost := map[int]bool{}
	for _, i := range lost {
		isLost[i] = true
	}
	for i := 1; i <= len(c.results); i++ {
		r := c.worker(i)
		switch {
		case isLost[i] && r.err == nil:
			c.t.Errorf("worker %d is lost and does not know", i)
		case isLost[i]:
			c.wantFiles(i, nil)
		case r.err != nil:
			c.t.Errorf("worker %d: %v", i, r.err)
		default:
			c.wantFiles(i, want)
		}
	}
	if (lead.err == nil) != (len(lost) == 0) || lead.err != nil && !errors.Is(lead.err, s3stream.ErrIncomplete) {
		c.t.Errorf("leader: %v with %d lost", lead.err, len(lost))
	}
	return lead
}

// TestDeadWorker: all connections of a worker in the middle break; its child
// goes to its parent, nothing is read again, everybody else finishes.
func TestDeadWorker(t *testing.T) {
	data := goTree(t, 12<<20)
	o, s3 := origin(t)
	put(t, o, "b", "model", data)
	var once sync.Once
	c := newChain(t, 8, s3stream.LeaderOptions{URIs: []string{"s3://b/model"}, S3: s3}, func(c *chainOf, i int) func(int, int64, []byte) {
		if i != 3 { // on the way to the worker: it can't have everything yet
			return nil
		}
		return func(_ int, off int64, _ []byte) {
			if off > 4<<20 {
				once.Do(func() {
					c.control[4].kill() // from the leader
					c.front[3].cut()    // from its parent: this one
					c.front[4].kill()   // from its child
				})
			}
		}
	})
	c.start(8)
	lead := c.finish(map[string][]byte{"model": data}, 4)
	if lead.err == nil || !strings.Contains(lead.err.Error(), "w4") {
		t.Errorf("the leader's error does not name the lost worker: %v", lead.err)
	}
	if lead.rep == nil {
		t.Fatal("no report")
	}
	if got := o.TotalBytes("b/model"); got > int64(len(data))*101/100 {
		t.Errorf("the origin sent %d bytes of %d", got, len(data))
	}
}

// TestTwoDeadNeighbours: the child's parent and grandparent die together, so
// only the leader may still have what it lacks, or reads it again.
func TestTwoDeadNeighbours(t *testing.T) {
	data := goTree(t, 12<<20)
	o, s3 := origin(t)
	put(t, o, "b", "model", data)
	var once sync.Once
	c := newChain(t, 5, s3stream.LeaderOptions{URIs: []string{"s3://b/model"}, S3: s3, Memory: 4 << 20}, func(c *chainOf, i int) func(int, int64, []byte) {
		if i != 3 {
			return nil
		}
		return func(_ int, off int64, _ []byte) {
			if off > 4<<20 {
				once.Do(func() {
					for _, p := range []*proxy{c.control[2], c.control[3], c.front[2], c.front[3]} {
						p.kill()
					}
					c.front[1].cut()
				})
			}
		}
	})
	c.start(5)
	c.finish(map[string][]byte{"model": data}, 2, 3)
}

// TestCorruptBlock: a bit flips between two workers, in a header or a payload,
// by seed. It is found at the next hop, blamed on the right peer, and mended.
func TestCorruptBlock(t *testing.T) {
	data := goTree(t, 4<<20)
	o, s3 := origin(t)
	put(t, o, "b", "model", data)
	const block = 64<<10 + 32 // with its header
	for _, at := range []int64{1 << 20, 777_777, 20 * block, 20*block + 17} {
		t.Run(fmt.Sprint(at), func(t *testing.T) {
			c := newChain(t, 4, s3stream.LeaderOptions{URIs: []string{"s3://b/model"}, S3: s3}, func(_ *chainOf, i int) func(int, int64, []byte) {
				if i != 2 {
					return nil
				}
				return func(n int, off int64, p []byte) {
					if n == 1 && at >= off && at < off+int64(len(p)) {
						p[at-off] ^= 0x40
					}
				}
			})
			c.start(4)
			var repairs []s3stream.Repair
			done := make(chan struct{})
			inner := c.results[2]
			c.results[2] = make(chan result, 1)
			go func() {
				r := <-inner
				if r.rep != nil {
					repairs = r.rep.Repairs
				}
				c.results[2] <- r
				close(done)
			}()
			c.finish(map[string][]byte{"model": data})
			<-done
			if len(repairs) != 1 {
				t.Fatalf("worker 3 repaired %d times, want once", len(repairs))
			}
			r := repairs[0]
			if !strings.HasPrefix(r.Peer, "w2 ") || r.Object != "s3://b/model" || r.Off >= at || r.Off < at-2*block {
				t.Errorf("blamed %+v", r)
			}
			e := (*s3stream.Error)(nil)
			if !errors.As(r.Err, &e) || e.Peer != r.Peer {
				t.Errorf("the error is %v", r.Err)
			}
		})
	}
}

// TestFrozenLink: a link carries nothing any more and does not close. Both
// ends notice within the stall timeout, and the child finds another parent.
func TestFrozenLink(t *testing.T) {
	data := goTree(t, 24<<20)
	o, s3 := origin(t)
	put(t, o, "b", "model", data)
	c := newChain(t, 4, s3stream.LeaderOptions{URIs: []string{"s3://b/model"}, S3: s3, StallTimeout: 2 * time.Second, Memory: 16 << 20},
		func(c *chainOf, i int) func(int, int64, []byte) {
			if i != 2 {
				return nil
			}
			return func(n int, off int64, _ []byte) {
				if n == 1 && off > 2<<20 {
					c.front[2].freeze()
				}
			}
		})
	c.start(4)
	c.finish(map[string][]byte{"model": data})
}

// TestStuckOutput: a worker's output takes nothing any more. It is cut off by
// name and given up; the others finish.
func TestStuckOutput(t *testing.T) {
	data := goTree(t, 32<<20)
	o, s3 := origin(t)
	put(t, o, "b", "model", data)
	c := newCast(t, s3stream.LeaderOptions{URIs: []string{"s3://b/model"}, S3: s3, Workers: 4, Topology: "chain", StallTimeout: 2 * time.Second, Memory: 16 << 20})
	release := make(chan struct{})
	c.opts = func(i int, o *s3stream.WorkerOptions) {
		o.Memory = 4 << 20
		if i == 1 {
			o.Output = s3stream.Output{OnBlock: func(b s3stream.Block) error {
				if b.Off > 1<<20 {
					<-release
				}
				return nil
			}}
		}
	}
	c.start(4)
	lead := <-c.lead
	close(release)
	if !errors.Is(lead.err, s3stream.ErrIncomplete) || !errors.Is(lead.rep.Workers[1].Err, s3stream.ErrDetached) {
		t.Fatalf("leader: %v", lead.err)
	}
	if !strings.Contains(lead.err.Error(), "w2") {
		t.Errorf("the leader's error does not name the stuck worker: %v", lead.err)
	}
	for i := 1; i <= 4; i++ {
		r := c.worker(i)
		if i == 2 {
			if !errors.Is(r.err, s3stream.ErrDetached) {
				t.Errorf("the stuck worker: %v", r.err)
			}
			continue
		}
		if r.err != nil {
			t.Errorf("worker %d: %v", i, r.err)
		}
		c.wantFiles(i, map[string][]byte{"model": data})
	}
}

// TestLeaderDies: every connection of the leader breaks in the middle. All
// workers fail with the right error and keep nothing.
func TestLeaderDies(t *testing.T) {
	data := goTree(t, 8<<20)
	o, s3 := origin(t)
	put(t, o, "b", "model", data)
	var once sync.Once
	c := newChain(t, 4, s3stream.LeaderOptions{URIs: []string{"s3://b/model"}, S3: s3}, func(c *chainOf, i int) func(int, int64, []byte) {
		if i != 2 {
			return nil
		}
		return func(_ int, off int64, _ []byte) {
			if off > 2<<20 {
				once.Do(func() {
					for _, p := range c.control[1:] {
						p.kill()
					}
				})
			}
		}
	})
	// Small rings: nobody can have everything when the leader dies.
	inner := c.opts
	c.opts = func(i int, o *s3stream.WorkerOptions) {
		inner(i, o)
		o.Memory = 64 * 64 << 10
	}
	c.start(4)
	for i := 1; i <= 4; i++ {
		if r := c.worker(i); !errors.Is(r.err, s3stream.ErrLeaderLost) {
			t.Errorf("worker %d: %v, want ErrLeaderLost", i, r.err)
		}
		c.wantFiles(i, nil)
	}
	if r := <-c.lead; !errors.Is(r.err, s3stream.ErrIncomplete) {
		t.Errorf("leader: %v", r.err)
	}
}

// TestInterrupted: the leader's context ends; the workers hear why.
func TestInterrupted(t *testing.T) {
	data := goTree(t, 8<<20)
	o, s3 := origin(t)
	put(t, o, "b", "model", data)
	c := newCast(t, s3stream.LeaderOptions{URIs: []string{"s3://b/model"}, S3: s3, Workers: 3, Memory: 8 << 20})
	ctx, cancel := context.WithCancel(t.Context())
	c.ctx = ctx
	workers, stop := context.WithCancel(t.Context())
	defer stop()
	var once sync.Once
	c.opts = func(i int, o *s3stream.WorkerOptions) {
		if i == 2 {
			o.Output = s3stream.Output{OnBlock: func(b s3stream.Block) error {
				if b.Off > 1<<20 {
					once.Do(cancel)
				}
				return nil
			}}
		}
	}
	c.workers = workers
	c.start(3)
	if r := <-c.lead; !errors.Is(r.err, context.Canceled) {
		t.Errorf("leader: %v", r.err)
	}
	for i := 1; i <= 3; i++ {
		r := c.worker(i)
		if !errors.Is(r.err, context.Canceled) || !strings.Contains(r.err.Error(), "ended the job") {
			t.Errorf("worker %d: %v", i, r.err)
		}
		if i != 3 {
			c.wantFiles(i, nil)
		}
	}
}

// TestObjectReplaced: the object changes between two ranged GETs.
func TestObjectReplaced(t *testing.T) {
	data := goTree(t, 12<<20)
	o, s3 := origin(t)
	put(t, o, "b", "model", data)
	o.SetFaults(testorigin.Fault{Op: "GetObject", Nth: 3, Action: testorigin.ActSwap})
	c := newCast(t, s3stream.LeaderOptions{URIs: []string{"s3://b/model"}, S3: s3, Workers: 4})
	c.start(4)
	if r := <-c.lead; !errors.Is(r.err, s3stream.ErrChanged) {
		t.Errorf("leader: %v, want ErrChanged", r.err)
	}
	for i := 1; i <= 4; i++ {
		if r := c.worker(i); !errors.Is(r.err, s3stream.ErrChanged) {
			t.Errorf("worker %d: %v, want ErrChanged", i, r.err)
		}
		c.wantFiles(i, nil)
	}
}

// TestStoreFaults: the engine's retries work below a broadcast.
func TestStoreFaults(t *testing.T) {
	data := goTree(t, 8<<20)
	o, s3 := origin(t)
	put(t, o, "b", "model", data)
	o.SetFaults(
		testorigin.Fault{Op: "GetObject", Probability: 0.3, Action: testorigin.ActStatus, Status: 503},
		testorigin.Fault{Op: "GetObject", Probability: 0.3, Action: testorigin.ActTruncate, At: testorigin.AtRandom},
	)
	c := newCast(t, s3stream.LeaderOptions{URIs: []string{"s3://b/model"}, S3: s3, Workers: 3})
	c.start(3)
	if r := <-c.lead; r.err != nil {
		t.Fatal(r.err)
	}
	for i := 1; i <= 3; i++ {
		if r := c.worker(i); r.err != nil {
			t.Errorf("worker %d: %v", i, r.err)
		}
		c.wantFiles(i, map[string][]byte{"model": data})
	}
}

// TestLateWorker: who comes after the start is told so, and nobody is disturbed.
func TestLateWorker(t *testing.T) {
	data := goTree(t, 1<<20)
	o, s3 := origin(t)
	put(t, o, "b", "model", data)
	c := newCast(t, s3stream.LeaderOptions{URIs: []string{"s3://b/model"}, S3: s3, Workers: 1})
	started, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	c.opts = func(_ int, o *s3stream.WorkerOptions) {
		o.Output = s3stream.Output{OnBlock: func(s3stream.Block) error {
			once.Do(func() { close(started) })
			<-release
			return nil
		}}
	}
	c.start(1)
	<-started
	w, err := s3stream.NewWorker(s3stream.WorkerOptions{Leader: c.addr, Listen: "127.0.0.1:0", Token: "secret-of-the-test", Output: s3stream.Output{Dir: t.TempDir()}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "already started") {
		t.Errorf("the late worker: %v", err)
	}
	close(release)
	if r := c.worker(1); r.err != nil {
		t.Error(r.err)
	}
	if r := <-c.lead; r.err != nil {
		t.Error(r.err)
	}
}

// TestStuckAtTheEnd: an output that takes nothing, although nobody waits for
// it any more, does not keep the leader for ever.
func TestStuckAtTheEnd(t *testing.T) {
	o, s3 := origin(t)
	put(t, o, "b", "model", goTree(t, 100<<10))
	c := newCast(t, s3stream.LeaderOptions{URIs: []string{"s3://b/model"}, S3: s3, Workers: 2, StallTimeout: time.Second})
	release := make(chan struct{})
	c.opts = func(i int, o *s3stream.WorkerOptions) {
		if i == 0 {
			o.Output = s3stream.Output{OnBlock: func(s3stream.Block) error { <-release; return nil }}
		}
	}
	c.start(2)
	lead := <-c.lead
	close(release)
	if !errors.Is(lead.err, s3stream.ErrDetached) {
		t.Errorf("leader: %v", lead.err)
	}
	if r := c.worker(1); !errors.Is(r.err, s3stream.ErrDetached) {
		t.Errorf("the stuck worker: %v", r.err)
	}
	if r := c.worker(2); r.err != nil {
		t.Error(r.err)
	}
}

func TestWrongToken(t *testing.T) {
	o, s3 := origin(t)
	put(t, o, "b", "k", []byte("x"))
	c := newCast(t, s3stream.LeaderOptions{URIs: []string{"s3://b/k"}, S3: s3, Workers: 2})
	c.opts = func(i int, o *s3stream.WorkerOptions) {
		if i == 0 {
			o.Token = "guess-of-the-token"
		}
	}
	c.start(2)
	if r := c.worker(1); !errors.Is(r.err, s3stream.ErrToken) {
		t.Errorf("wrong token: %v", r.err)
	}
	// The place is still free for the right one.
	w, err := s3stream.NewWorker(s3stream.WorkerOptions{Leader: c.addr, Listen: "127.0.0.1:0", Token: "secret-of-the-test", Output: s3stream.Output{Dir: t.TempDir()}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Run(t.Context()); err != nil {
		t.Error(err)
	}
	if r := c.worker(2); r.err != nil {
		t.Error(r.err)
	}
	if r := <-c.lead; r.err != nil {
		t.Error(r.err)
	}
}

// TestNothingToSend: what the store refuses ends the leader and the workers
// that have already joined.
func TestNothingToSend(t *testing.T) {
	o, s3 := origin(t)
	put(t, o, "b", "k", []byte("x"))
	bad := s3
	bad.SecretAccessKey = "wrong"
	refused := s3
	refused.Endpoint = "http://" + testport.Addr(t)
	refused.Outage = 200 * time.Millisecond
	for name, x := range map[string]struct {
		uri  string
		s3   s3stream.S3
		want error
	}{
		"no key":        {"s3://b/missing", s3, s3stream.ErrNotFound},
		"no bucket":     {"s3://absent/k", s3, s3stream.ErrNotFound},
		"no bucket (/)": {"s3://absent/", s3, s3stream.ErrNotFound},
		"empty prefix":  {"s3://b/nothing/", s3, s3stream.ErrNotFound},
		"credentials":   {"s3://b/k", bad, s3stream.ErrDenied},
		"no server":     {"s3://b/k", refused, syscall.ECONNREFUSED},
	} {
		c := newCast(t, s3stream.LeaderOptions{URIs: []string{x.uri}, S3: x.s3, Workers: 2})
		c.opts = func(_ int, o *s3stream.WorkerOptions) { o.Wait = time.Second }
		c.start(1)
		if r := <-c.lead; !errors.Is(r.err, x.want) {
			t.Errorf("%s: leader: %v", name, r.err)
		} else if strings.Contains(r.err.Error(), "\n") {
			t.Errorf("%s: %q is not one line", name, r.err)
		}
		// It may have come too late to be told.
		if r := c.worker(1); r.err == nil {
			t.Errorf("%s: worker succeeded", name)
		}
		c.wantFiles(1, nil)
		dir := filepath.Join(t.TempDir(), "out")
		if _, err := s3stream.Get(t.Context(), s3stream.GetOptions{URIs: []string{x.uri}, S3: x.s3, Output: s3stream.Output{Dir: dir}}); !errors.Is(err, x.want) {
			t.Errorf("%s: get: %v", name, err)
		}
		if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: get left a directory", name)
		}
	}
}

// TestTooFewWorkers: the leader does not wait for ever.
func TestTooFewWorkers(t *testing.T) {
	o, s3 := origin(t)
	put(t, o, "b", "k", []byte("x"))
	c := newCast(t, s3stream.LeaderOptions{URIs: []string{"s3://b/k"}, S3: s3, Workers: 3, Wait: 300 * time.Millisecond})
	c.start(1)
	if r := <-c.lead; r.err == nil || !strings.Contains(r.err.Error(), "of 3 workers joined") {
		t.Errorf("leader: %v", r.err)
	}
	if r := c.worker(1); r.err == nil {
		t.Error("the worker succeeded")
	}
}

// TestNoLeader: a worker does not wait for ever either.
func TestNoLeader(t *testing.T) {
	addr := testport.Addr(t)
	w, err := s3stream.NewWorker(s3stream.WorkerOptions{Leader: addr, Listen: "127.0.0.1:0", Wait: 300 * time.Millisecond, Output: s3stream.Output{Dir: t.TempDir()}})
	if err != nil {
		t.Fatal(err)
	}
	_, err = w.Run(t.Context())
	if err == nil || !strings.Contains(err.Error(), addr) || !strings.Contains(err.Error(), "refused") {
		t.Errorf("%v", err)
	}
}

// TestKeysThatAreNoPaths: keys that can't be files fail before a byte is sent.
func TestKeysThatAreNoPaths(t *testing.T) {
	for _, keys := range [][]string{{"p/../../etc/passwd"}, {"p/a", "p/a/b"}, {"p//x"}, {"p/.penstock-x"}, {"p/a", "p/a-b", "p/a/b"}} {
		o, s3 := origin(t)
		for _, k := range keys {
			put(t, o, "b", k, []byte("x"))
		}
		dir := t.TempDir()
		if _, err := s3stream.Get(t.Context(), s3stream.GetOptions{URIs: []string{"s3://b/p/"}, S3: s3, Output: s3stream.Output{Dir: dir}}); err == nil {
			t.Errorf("%q: no error", keys)
		}
		wantDir(t, "get", dir, nil)
	}
}

// TestRandomDeaths kills up to two random workers at random places, by seed, in
// chains and trees, with small rings: the others always finish.
func TestRandomDeaths(t *testing.T) {
	seeds := uint64(8)
	if testing.Short() {
		seeds = 3
	}
	data := goTree(t, 4<<20)
	o, s3 := origin(t)
	put(t, o, "b", "model", data)
	put(t, o, "b", "small/x", data[:10])
	for seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 7))
			const n = 6
			shape := []string{"chain", "tree:2", "tree:3"}[rnd.IntN(3)]
			die := map[int]int64{} // worker to the byte on its way to a child that kills it
			for range 1 + rnd.IntN(2) {
				die[1+rnd.IntN(n)] = rnd.Int64N(4 << 20)
			}
			t.Logf("%s, deaths %v", shape, die)
			var dead sync.Map
			c := newChain(t, n, s3stream.LeaderOptions{URIs: []string{"s3://b/model", "s3://b/small/"}, S3: s3, Memory: 4 << 20, Topology: shape},
				func(c *chainOf, i int) func(int, int64, []byte) {
					at, ok := die[i]
					if !ok {
						return nil
					}
					return func(_ int, off int64, _ []byte) {
						if off < at {
							return
						}
						if _, again := dead.LoadOrStore(i, true); !again {
							c.control[i].kill()
							c.front[i].kill()
						}
					}
				})
			inner := c.opts
			c.opts = func(i int, o *s3stream.WorkerOptions) {
				inner(i, o)
				o.Memory = 4 << 20
			}
			c.start(n)
			lead := <-c.lead
			for i := 1; i <= n; i++ {
				r := c.worker(i)
				if r.err == nil {
					c.wantFiles(i, map[string][]byte{"model": data, "x": data[:10]})
					continue
				}
				if _, ok := dead.Load(i); !ok {
					t.Errorf("worker %d: %v", i, r.err)
				}
			}
			if lead.err != nil && !errors.Is(lead.err, s3stream.ErrIncomplete) {
				t.Errorf("leader: %v", lead.err)
			}
		})
	}
}
