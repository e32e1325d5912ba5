package s3stream

import (
	"errors"
	"net"
	"testing"
	"time"

	"github.com/penstock/penstock/s3stream/internal/wire"
)

// leaderOf returns the members' half of a leader that waits for its workers.
func leaderOf(workers int) *leaderRun {
	return &leaderRun{l: &Leader{opts: LeaderOptions{Workers: workers}}, news: make(chan struct{}, 1), node: make(chan struct{})}
}

// TestUnwelcomed: a job does not start with a worker that has its place, but not yet its
// welcome: the start would overtake that.
func TestUnwelcomed(t *testing.T) {
	r := leaderOf(2)
	a, b := &member{}, &member{}
	for _, m := range []*member{a, b} {
		if why := r.admit(m); why != "" {
			t.Fatal(why)
		}
	}
	if why := r.admit(&member{}); why == "" {
		t.Error("a third has a place of two")
	}
	if n, enough := r.assemble(true, false); n != 0 || enough {
		t.Errorf("%d present, enough %v", n, enough)
	}
	for i, m := range []*member{a, b} {
		if why := r.arrived(m); why != "" {
			t.Fatal(why)
		}
		if n, enough := r.assemble(true, false); n != i+1 || enough != (m == b) {
			t.Errorf("%d present, enough %v", n, enough)
		}
	}

	r = leaderOf(0) // whoever came in time
	late := &member{}
	for _, m := range []*member{a, late} {
		if why := r.admit(m); why != "" {
			t.Fatal(why)
		}
	}
	r.arrived(a)
	if n, enough := r.assemble(true, true); n != 1 || !enough || len(r.members) != 1 || r.members[0] != a {
		t.Errorf("%d present, enough %v, members %v", n, enough, r.members)
	}
	if why := r.arrived(late); why != jobStarted {
		t.Errorf("a late one: %q", why)
	}
}

// TestLateWelcome: who is welcomed when the job has begun without it is told so.
func TestLateWelcome(t *testing.T) {
	r := leaderOf(0)
	r.l.opts.StallTimeout = DefaultStall
	near, far := net.Pipe()
	defer far.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.join(t.Context(), wire.NewConn(near), wire.Request{Role: wire.Join, Name: "w"}, func() error {
			r.mu.Lock()
			r.started = true
			r.mu.Unlock()
			return nil
		})
	}()
	c := wire.NewConn(far)
	h, err := c.ReadHeader()
	if err != nil {
		t.Fatal(err)
	}
	if f := (*wire.Failure)(nil); h.Type != wire.Error || !errors.As(wire.ReadFailure(c, h), &f) || f.Message != jobStarted {
		t.Errorf("%s, %v", h.Type, f)
	}
	<-done
}

// TestLateStatus: a worker's reports come from two goroutines. One that the last one
// overtook does not take its hash away.
func TestLateStatus(t *testing.T) {
	m := &member{}
	m.heard(&statusMsg{Bytes: 1}, false, time.Now())
	m.heard(&statusMsg{Bytes: 3, Hash: "h", Elapsed: time.Minute}, true, time.Now())
	m.heard(&statusMsg{Bytes: 2}, false, time.Now())
	if w := m.report(1, "h"); !w.HashOK || w.Bytes != 3 || w.Elapsed != time.Minute {
		t.Errorf("%+v", w)
	}
}

// TestLostBeforeStart: a worker is lost while the leader starts the others one by one:
// those who hear of it first start all the same.
func TestLostBeforeStart(t *testing.T) {
	near, far := net.Pipe()
	defer near.Close()
	defer far.Close()
	c := wire.NewConn(far)
	sent := make(chan error, 1)
	start := startMsg{
		Job: "j", Node: 1, Members: []memberMsg{{Name: "a", Addr: "h:1"}, {Name: "b", Addr: "h:2"}},
		Objects: 1, BlockBytes: MinBlockBytes, Bytes: 1, Report: 1, Stall: time.Second, Shape: "chain", Epoch: 1,
	}
	go func() {
		sent <- errors.Join(
			c.WriteSmall(wire.Ping, 0, nil),
			c.WriteSmall(wire.Lost, 2, nil),
			c.WriteJSON(wire.Start, start),
			c.WriteSmall(wire.Lost, 2, nil),
			c.WriteJSON(wire.Objects, objectsMsg{[]Object{{Bucket: "b", Key: "k", Name: "k", Size: 1}}}),
		)
	}()
	w := &Worker{}
	s, m, err := w.awaitStart(t.Context(), wire.NewConn(near))
	if err != nil {
		t.Fatal(err)
	}
	if s.Job != "j" || len(m.Objects) != 1 {
		t.Errorf("%+v, %+v", s, m)
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
}
