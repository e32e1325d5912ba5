package s3stream_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/penstock/penstock/internal/crc"
	"github.com/penstock/penstock/s3stream"
	"github.com/penstock/penstock/s3stream/internal/wire"
)

// relay is a member of a job that gives its child other bytes than it received, under checksums and trailers of its
// own: what a hostile member does, and what a node does whose memory flips a bit before it computes the sums.
type relay struct {
	t     *testing.T
	alter func(block []byte) // changes a block of the first object

	leader string
	l      net.Listener
	node   uint32
	job    string
	left   int // objects to come
	ctrl   *wire.Conn
}

// newRelay joins the job as its first worker; run does the rest.
func newRelay(t *testing.T, leader string, alter func([]byte)) *relay {
	t.Helper()
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return &relay{t: t, alter: alter, leader: leader, l: l}
}

func (r *relay) dial(req wire.Request) (*wire.Conn, error) {
	var d net.Dialer
	nc, err := d.DialContext(r.t.Context(), "tcp", r.leader)
	if err != nil {
		return nil, err
	}
	c := wire.NewConn(nc)
	if err := wire.Open(c, "secret-of-the-test", req, stall); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// run relays the job until the leader ends it.
func (r *relay) run() error {
	ctrl, err := r.dial(wire.Request{Role: wire.Join, Name: "evil", Addr: r.l.Addr().String(), Rank: 1, Mem: 64 << 20})
	if err != nil {
		return err
	}
	defer ctrl.Close()
	r.ctrl = ctrl
	for r.job == "" {
		h, err := ctrl.ReadHeader()
		if err != nil {
			return err
		}
		p, err := ctrl.ReadSmall(h)
		if err != nil {
			return err
		}
		if h.Type == wire.Start {
			var s struct {
				Job     string
				Node    uint32
				Objects int
			}
			if err := json.Unmarshal(p, &s); err != nil {
				return err
			}
			r.job, r.node, r.left = s.Job, s.Node, s.Objects
		}
	}
	served := make(chan error, 1)
	go func() { served <- r.serve() }()
	for {
		h, err := ctrl.ReadHeader()
		if err == nil {
			_, err = ctrl.ReadSmall(h)
		}
		if err != nil || h.Type == wire.Bye || h.Type == wire.Error {
			ctrl.Close()
			r.l.Close()
			return <-served
		}
		_ = ctrl.WriteJSON(wire.Status, struct{}{})
	}
}

// serve takes the one child and sends it the altered job.
func (r *relay) serve() error {
	nc, err := r.l.Accept()
	if err != nil {
		return err
	}
	child := wire.NewConn(nc)
	defer child.Close()
	_, welcome, err := wire.Accept(child, "secret-of-the-test", stall)
	if err == nil {
		err = welcome()
	}
	if err != nil {
		return err
	}
	up, err := r.dial(wire.Request{Role: wire.Child, Name: "evil", Node: r.node, Job: r.job})
	if err != nil {
		return err
	}
	defer up.Close()
	go func() { // the child's reports have no reader
		for {
			h, err := child.ReadHeader()
			if err != nil {
				return
			}
			if _, err := child.ReadSmall(h); err != nil {
				return
			}
		}
	}()
	sum, have := uint32(0), uint64(0)
	for {
		h, err := up.ReadHeader()
		if err != nil {
			return nil // the leader is done with us
		}
		p := make([]byte, h.Length)
		if err := up.ReadPayload(h, p); err != nil {
			return err
		}
		switch {
		case h.Type == wire.Block:
			if h.Object == 0 && h.Offset == 0 {
				r.alter(p)
			}
			h.Sum = wire.Sum(p)
			sum = crc.Castagnoli.Combine(sum, h.Sum, int64(len(p)))
			have++
		case h.Type == wire.End:
			t, err := wire.ParseTrailer(p)
			if err != nil {
				return err
			}
			t.Sum, sum = sum, 0
			p = t.Append(nil)
			h.Sum = wire.Sum(p)
			have++
		}
		if err := child.Write(wire.Frame{Header: h, Payload: p}); err != nil {
			return nil // the child has left
		}
		if h.Type == wire.End {
			if r.left--; r.left == 0 {
				_ = r.ctrl.WriteJSON(wire.Finished, map[string]string{"hash": strings.Repeat("0", 64)})
			}
		}
		state := wire.State{Have: have, Low: have}
		if err := up.WriteSmall(wire.Progress, 0, state.Append(nil)); err != nil {
			return nil
		}
	}
}

// poison replaces the beginning of a block.
func poison(b []byte) { copy(b, "PWNED-BY-RELAY!!") }

// forge poisons a block and sets the four bytes behind so that its CRC32C stays: for CRCs there is always a way.
func forge(b []byte) {
	table := crc32.MakeTable(crc32.Castagnoli)
	want := crc32.Checksum(b, table)
	poison(b)
	// Run the wanted result back over the bytes behind the patch, and then over the patch with the state before it.
	const at = 16
	state := ^want
	for i := len(b) - 1; i >= at; i-- {
		if i < at+4 {
			b[i] = 0
		}
		for k, e := range table {
			if e>>24 == state>>24 {
				state = (state^e)<<8 | uint32(byte(k)^b[i])
				break
			}
		}
	}
	before := ^crc32.Checksum(b[:at], table)
	patch := before ^ state
	for i := range 4 {
		b[at+i] = byte(patch >> (8 * i))
	}
}

// TestRelayAltersData: a member in the middle gives its child other bytes under checksums that match. The child
// compares with what the leader itself says it read, fails with the name of that member, and keeps no file.
func TestRelayAltersData(t *testing.T) {
	data := goTree(t, 3<<20)
	for _, c := range []struct {
		name   string
		alter  func([]byte)
		digest string
		proven bool // the worker finds out
	}{
		{"other bytes", poison, "", true},
		{"other bytes, SHA-256", poison, s3stream.DigestSHA256, true},
		{"other bytes with the same CRC32C, SHA-256", forge, s3stream.DigestSHA256, true},
		// The limit of the default, as LeaderOptions.Digest says: a member with the token can forge a CRC.
		{"other bytes with the same CRC32C", forge, "", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			o, s3 := origin(t)
			put(t, o, "b", "m/a", data[:1<<20])
			put(t, o, "b", "m/b", data[1<<20:])
			k := newCast(t, s3stream.LeaderOptions{URIs: []string{"s3://b/m/"}, S3: s3, Workers: 2, Topology: "chain", Digest: c.digest})
			evil := newRelay(t, k.addr, c.alter)
			relayed := make(chan error, 1)
			go func() { relayed <- evil.run() }()
			k.opts = func(_ int, o *s3stream.WorkerOptions) { o.Rank = 2 }
			k.start(1)
			r := k.worker(1)
			if !c.proven {
				if r.err != nil {
					t.Errorf("worker: %v", r.err)
				}
				if lead := <-k.lead; !errors.Is(lead.err, s3stream.ErrIncomplete) || !strings.Contains(lead.err.Error(), "evil") {
					t.Errorf("the leader says of the member with another hash: %v", lead.err)
				}
				<-relayed
				return
			}
			if !errors.Is(r.err, s3stream.ErrChecksum) || !strings.Contains(r.err.Error(), "evil (") || !strings.Contains(r.err.Error(), "altered") {
				t.Errorf("worker: %v", r.err)
			}
			wantDir(t, "worker", k.dirs[0], nil)
			k.stop()
			<-k.lead
			<-relayed
		})
	}
}

// TestForge: the forged block differs and has the same sum, or the test above would prove nothing.
func TestForge(t *testing.T) {
	b := goTree(t, 64<<10)
	was := wire.Sum(b)
	forge(b)
	if wire.Sum(b) != was || !strings.HasPrefix(string(b), "PWNED") {
		t.Errorf("sum %08x, was %08x", wire.Sum(b), was)
	}
}

// TestStrangersOnThePort: connections that never say anything, such as port scans and health checks, do not keep a
// worker out, and the oldest of them make room.
func TestStrangersOnThePort(t *testing.T) {
	o, s3 := origin(t)
	put(t, o, "b", "k", []byte("x"))
	c := newCast(t, s3stream.LeaderOptions{URIs: []string{"s3://b/k"}, S3: s3, Workers: 1})
	go func() {
		rep, err := c.leader.Run(c.ctx)
		c.lead <- result{rep, err}
	}()
	const strangers = 600
	var idle []net.Conn
	var d net.Dialer
	for range strangers {
		nc, err := d.DialContext(t.Context(), "tcp", c.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		idle = append(idle, nc)
	}
	// The first stranger is long gone when the last has come, without any timeout.
	if err := idle[0].SetReadDeadline(time.Now().Add(stall)); err != nil {
		t.Fatal(err)
	}
	for b := make([]byte, 256); ; {
		if _, err := idle[0].Read(b); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal("600 connections from one host are kept")
		} else if err != nil {
			break
		}
	}
	w, err := s3stream.NewWorker(s3stream.WorkerOptions{
		Leader: c.addr, Listen: "127.0.0.1:0", Token: "secret-of-the-test", Output: s3stream.Output{Dir: t.TempDir()},
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Run(t.Context()); err != nil {
		t.Error(err)
	}
	if r := <-c.lead; r.err != nil {
		t.Error(r.err)
	}
}

// TestKeyThatIsNotUTF8: keys are bytes from the listing to the file.
func TestKeyThatIsNotUTF8(t *testing.T) {
	o, s3 := origin(t)
	const key = "w/caf\xe9"
	put(t, o, "b", key, []byte("coffee"))
	c := newCast(t, s3stream.LeaderOptions{URIs: []string{"s3://b/w/"}, S3: s3, Workers: 2})
	c.start(2)
	if r := <-c.lead; r.err != nil {
		t.Fatal(r.err)
	}
	for i := 1; i <= 2; i++ {
		if r := c.worker(i); r.err != nil {
			t.Errorf("worker %d: %v", i, r.err)
		}
		if got, err := os.ReadFile(filepath.Join(c.dirs[i-1], "caf\xe9")); err != nil || string(got) != "coffee" {
			t.Errorf("worker %d has %q, %v", i, got, err)
		}
	}
}

// TestBlockedPort: a worker whose port nobody reaches costs its child one step to the next parent, and the leader's
// report names the pair.
func TestBlockedPort(t *testing.T) {
	o, s3 := origin(t)
	put(t, o, "b", "k", goTree(t, 1<<20))
	c := newCast(t, s3stream.LeaderOptions{URIs: []string{"s3://b/k"}, S3: s3, Workers: 2, Topology: "chain"})
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := l.Addr().String()
	l.Close()
	c.opts = func(i int, o *s3stream.WorkerOptions) {
		if i == 0 {
			o.Advertise = closed
		}
	}
	c.start(2)
	lead := <-c.lead
	if lead.err != nil {
		t.Fatal(lead.err)
	}
	trouble := fmt.Sprint(lead.rep.Workers[1].Trouble)
	if !strings.Contains(trouble, "w1 ("+closed+")") || !strings.Contains(lead.rep.Table(), "w2 changed its parent: ") {
		t.Errorf("the report does not name the pair: %q\n%s", trouble, lead.rep.Table())
	}
	for i := 1; i <= 2; i++ {
		if r := c.worker(i); r.err != nil {
			t.Errorf("worker %d: %v", i, r.err)
		}
	}
}

// TestSomethingElseListens: --wait is a bound, and the error says what is there.
func TestSomethingElseListens(t *testing.T) {
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() // it never accepts, as a server that waits for the client to speak looks
	w, err := s3stream.NewWorker(s3stream.WorkerOptions{
		Leader: l.Addr().String(), Listen: "127.0.0.1:0", Wait: 300 * time.Millisecond, Output: s3stream.Output{Dir: t.TempDir()},
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "another program listens there") {
		t.Error(err)
	}
}

// TestPanicIsContained: a panic in a job is that job's error; the process of the caller goes on.
func TestPanicIsContained(t *testing.T) {
	o, s3 := origin(t)
	put(t, o, "b", "k", []byte("x"))
	c := newCast(t, s3stream.LeaderOptions{URIs: []string{"s3://b/k"}, S3: s3, Workers: 1})
	c.opts = func(_ int, o *s3stream.WorkerOptions) {
		o.Output = s3stream.Output{OnBlock: func(s3stream.Block) error { panic("a fault of ours") }}
	}
	c.start(1)
	if r := c.worker(1); r.err == nil || !strings.Contains(r.err.Error(), "internal error: a fault of ours") {
		t.Error(r.err)
	}
	if r := <-c.lead; !errors.Is(r.err, s3stream.ErrIncomplete) {
		t.Error(r.err)
	}
}
