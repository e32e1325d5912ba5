package s3stream

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"testing"
	"time"

	"github.com/penstock/penstock/internal/budget"
	"github.com/penstock/penstock/internal/ranges"
	"github.com/penstock/penstock/s3stream/internal/ring"
	"github.com/penstock/penstock/s3stream/internal/wire"
)

// memStore is a store whose objects lie in memory.
type memStore map[string][]byte

func (s memStore) source(o *Object) (ranges.Source, ranges.Spec, error) {
	return memSource(s[o.Key]), ranges.Spec{Name: o.Key, Host: "memory", Size: o.Size, Pin: "etag:1"}, nil
}

type memSource []byte

func (s memSource) Open(_ context.Context, r ranges.Request) (io.ReadCloser, ranges.Info, error) {
	n := min(r.Len, int64(len(s))-r.Off)
	return io.NopCloser(bytes.NewReader(s[r.Off : r.Off+n])), ranges.Info{Size: int64(len(s)), Off: r.Off, Len: n, Pin: "etag:1"}, nil
}

// feedFixture is a feeder over two objects, and the node that it feeds.
func feedFixture(t *testing.T) (*feeder, *node, map[string][]byte) {
	t.Helper()
	big := bytes.Repeat([]byte("0123456789abcdef"), 40<<10) // 640 KiB: 40 blocks
	data := map[string][]byte{"big": big, "small": []byte("x")}
	m := &manifest{Job: "j", BlockBytes: MinBlockBytes, Objects: []Object{
		{Key: "big", Name: "big", Size: int64(len(big))}, {Key: "small", Name: "small", Size: 1},
	}}
	e, err := ranges.New(ranges.Options{Budget: budget.New(minMemory(m.BlockBytes))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	it := newItems(m)
	f := newFeeder(it, memStore(data), e, divide(e.Budget().Limit(), m.BlockBytes))
	n := &node{
		life: &run{failed: make(chan struct{})},
		job:  "j", items: it, ring: ring.New(f.mem.slots), stall: 20 * time.Second, log: slog.New(slog.NewTextHandler(t.Output(), nil)),
		names: []string{"leader", "w1"}, moved: make(chan struct{}, 1),
		children: make(map[uint32]*child), seen: make(map[uint32]bool), news: make(chan struct{}),
		again: func(from uint64) *again { return &again{f: f, next: from} },
	}
	t.Cleanup(func() {
		n.ring.Close(io.ErrClosedPipe)
		if b := e.Budget().InUse(); b != 0 {
			t.Errorf("%d bytes are still held", b)
		}
		if p, limit := e.Budget().Peak(), e.Budget().Limit(); p > limit {
			t.Errorf("%d bytes were held at once, the budget is %d", p, limit)
		}
	})
	return f, n, data
}

// connect returns the child's end of a connection that n serves.
func connect(t *testing.T, n *node, req wire.Request) *wire.Conn {
	t.Helper()
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	served := make(chan struct{})
	go func() {
		defer close(served)
		nc, err := l.Accept()
		if err != nil {
			return
		}
		c := wire.NewConn(nc)
		if req, welcome, err := wire.Accept(c, "s", 10*time.Second); err == nil {
			n.serve(context.Background(), c, req, welcome)
		}
	}()
	c, err := dial(t.Context(), l.Addr().String(), "s", req, 10*time.Second, 10*time.Second)
	if err != nil {
		<-served
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); <-served })
	return c
}

// TestCatchUp: a worker that the ring has outrun gets what it lacks from the
// store, by the leader, and then goes on from the ring.
func TestCatchUp(t *testing.T) {
	f, n, data := feedFixture(t)
	// Nobody is attached: the ring moves on.
	if err := f.run(t.Context(), n.ring.Put); err != nil {
		t.Fatal(err)
	}
	n.ring.Finish()
	if n.ring.Oldest() <= 5 {
		t.Fatalf("the oldest item is %d: nothing to catch up", n.ring.Oldest())
	}
	const from = 3
	c := connect(t, n, wire.Request{Role: wire.Child, Node: 1, Job: "j", From: from})
	got := map[int][]byte{}
	for seq := uint64(from); seq < n.items.total(); seq++ {
		h, err := c.ReadHeader()
		if err != nil {
			t.Fatal(err)
		}
		p := make([]byte, h.Length)
		if err := c.ReadPayload(h, p); err != nil {
			t.Fatal(err)
		}
		want := n.items.at(seq)
		if int(h.Object) != want.object || h.Offset != want.off || (h.Type == wire.End) != want.end {
			t.Fatalf("item %d: %+v, want %+v", seq, h, want)
		}
		if want.end {
			tr, err := wire.ParseTrailer(p)
			if err != nil || tr.Sum != wire.Sum(data[n.items.m.Objects[want.object].Key]) {
				t.Errorf("trailer %+v, %v", tr, err)
			}
			continue
		}
		got[want.object] = append(got[want.object], p...)
	}
	if !bytes.Equal(got[0], data["big"][from*MinBlockBytes:]) || !bytes.Equal(got[1], data["small"]) {
		t.Error("other bytes")
	}
	total := n.items.total()
	if err := (childState{Have: total, Low: total}).send(c); err != nil {
		t.Fatal(err)
	}
	if again := f.reread.Load(); again == 0 || again > int64(len(data["big"])) {
		t.Errorf("%d bytes read again", again)
	}
}

// TestRefusals: a child of another job, with an impossible number or position,
// or behind the ring of a worker, is turned away with a reason.
func TestRefusals(t *testing.T) {
	f, n, _ := feedFixture(t)
	if err := f.run(t.Context(), n.ring.Put); err != nil {
		t.Fatal(err)
	}
	n.again = nil // as at a worker
	for name, req := range map[string]wire.Request{
		"job":      {Node: 1, Job: "other"},
		"number":   {Node: 2, Job: "j"},
		"leader":   {Node: 0, Job: "j"},
		"position": {Node: 1, Job: "j", From: 1 << 40},
		"gone":     {Node: 1, Job: "j"},
	} {
		a, b := net.Pipe()
		done := make(chan struct{})
		go func() {
			defer close(done)
			c := wire.NewConn(b)
			if req, welcome, err := wire.Accept(c, "s", 10*time.Second); err == nil {
				n.serve(context.Background(), c, req, welcome)
			}
		}()
		if err := wire.Open(wire.NewConn(a), "s", req, 10*time.Second); err == nil {
			t.Errorf("%s: welcome", name)
		}
		a.Close()
		<-done
	}
}

// TestFeedReadsEachByteOnce, also when objects are read ahead.
func TestFeedReadsEachByteOnce(t *testing.T) {
	f, n, data := feedFixture(t)
	sent := map[uint32][]byte{}
	err := f.run(t.Context(), func(_ context.Context, it ring.Item) error {
		if it.Header.Type == wire.Block {
			sent[it.Header.Object] = append(sent[it.Header.Object], it.Payload...)
		}
		it.Release()
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for i, o := range n.items.m.Objects {
		if !bytes.Equal(sent[uint32(i)], data[o.Key]) {
			t.Errorf("%s: other bytes", o.Key)
		}
	}
	if s := f.engine.Stats(); s.Received != int64(len(data["big"])+1) {
		t.Errorf("received %d bytes", s.Received)
	}
}
