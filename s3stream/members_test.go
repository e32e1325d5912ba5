package s3stream

import (
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/penstock/penstock/s3stream/internal/wire"
)

// leaderOf returns the members' half of a leader that waits for its workers.
func leaderOf(workers int) *leaderRun {
	return &leaderRun{life: &run{failed: make(chan struct{})}, l: &Leader{opts: LeaderOptions{Workers: workers}}, news: make(chan struct{}, 1), node: make(chan struct{})}
}

// TestUnwelcomed: a job does not start with a worker that has its place, but not yet its
// welcome: the start would overtake that.
func TestUnwelcomed(t *testing.T) {
	r := leaderOf(2)
	a, b := memberAt("h:1"), memberAt("h:2")
	for _, m := range []*member{a, b} {
		if why := r.admit(m); why != "" {
			t.Fatal(why)
		}
	}
	if why := r.admit(memberAt("h:3")); why == "" {
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
	late := memberAt("h:4")
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
		r.join(t.Context(), wire.NewConn(near), wire.Request{Role: wire.Join, Name: "w", Addr: "h:1"}, func() error {
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
			c.WriteJSON(wire.Objects, objectsMsg{[]objectMsg{{Object: Object{Bucket: "b", Key: "k", Name: "k", Size: 1}}}}),
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

// memberAt is a member that says others reach it at the address.
func memberAt(addr string) *member { return &member{req: wire.Request{Addr: addr}} }

// TestMemberTextIsForeign: what a member says of itself reaches no log or table as more than plain text.
func TestMemberTextIsForeign(t *testing.T) {
	r := leaderOf(1)
	for _, addr := range []string{"", "h", "h:0", "h:99999", ":7117", "\x1b[2J:1", "h\n:1", "a b:1", strings.Repeat("h", 300) + ":1"} {
		if why := r.admit(memberAt(addr)); why == "" {
			t.Errorf("%q was taken for an address", addr)
		}
	}
	for _, s := range []statusMsg{{Hash: "\x1b[2J"}, {Hash: "abcd"}} {
		if s.check() == nil {
			t.Errorf("%q was taken for a hash", s.Hash)
		}
	}
	s := statusMsg{Hash: strings.Repeat("0", 64), Trouble: []string{"\x1b]0;owned\x07"}}
	if err := s.check(); err != nil || s.Trouble[0] != `\x1b]0;owned\a` {
		t.Errorf("%v, %q", err, s.Trouble)
	}
	err := fromWire(&wire.Failure{Code: "checksum", Message: "\x1b[2Jwarning\n" + strings.Repeat("x", 4000)})
	if text := err.Error(); strings.ContainsAny(text, "\x1b\n") || len(text) > maxReason || !errors.Is(err, ErrChecksum) {
		t.Errorf("%q (%d bytes)", text[:20], len(text))
	}
}

// TestElsewhereBeforeThePlan: a status that no worker of ours sends changes nothing.
func TestElsewhereBeforeThePlan(t *testing.T) {
	r := leaderOf(1)
	m := memberAt("h:1")
	if why := r.admit(m); why != "" {
		t.Fatal(why)
	}
	r.elsewhere(m)
	if m.away {
		t.Error("the member has another parent than planned before there is a plan")
	}
}
