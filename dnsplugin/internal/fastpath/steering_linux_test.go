//go:build amd64 || arm64

package fastpath

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestWhomTheKernelShouldDealTo(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		what          string
		members, ours []uint64
		own           []uint64 // in addition to ours
		how           dealing
		why           error
	}{
		{"we are alone", []uint64{1, 2}, []uint64{1, 2}, nil, toAll, nil},
		{"beside the server's own socket", []uint64{1, 2, 3}, []uint64{2, 3}, []uint64{1, 9}, toOurs, nil},
		{"another process", []uint64{1, 2, 3}, []uint64{2, 3}, nil, evenly, errShared},
		{"another process, and the server's own", []uint64{1, 2, 3, 4}, []uint64{2, 3}, []uint64{1}, evenly, errShared},
		{"the kernel does not list one of ours", []uint64{1, 2}, []uint64{2, 3}, []uint64{1}, evenly, errUnlocated},
		{"it lists nothing", nil, []uint64{2}, nil, evenly, errUnlocated},
	} {
		own := map[uint64]bool{}
		for _, o := range slices.Concat(tt.own, tt.ours) {
			own[o] = true
		}
		if how, why := deal(tt.members, own, tt.ours); how != tt.how || !errors.Is(why, tt.why) || (why == nil) != (tt.why == nil) {
			t.Errorf("%s: %v %v", tt.what, how, why)
		}
	}
}

func TestRunsOfPlaces(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		places []int
		runs   string
		others string // of 6
	}{
		{nil, "[]", "[0 1 2 3 4 5]"},
		{[]int{2, 0, 1}, "[{0 3}]", "[3 4 5]"},
		{[]int{5, 1, 2}, "[{1 2} {5 1}]", "[0 3 4]"},
		{[]int{0, 2, 4}, "[{0 1} {2 1} {4 1}]", "[1 3 5]"},
	} {
		if got := fmt.Sprint(placesExcept(tt.places, 6)); got != tt.others {
			t.Errorf("others than %v: %s", tt.places, got)
		}
		if got := fmt.Sprint(runs(tt.places)); got != tt.runs {
			t.Errorf("%v: %s", tt.places, got)
		}
	}
}

func TestNextLook(t *testing.T) {
	t.Parallel()
	pause, total := lookSoon, time.Duration(0)
	for range 8 {
		pause = nextLook(pause, 0, false)
		total += pause
	}
	if pause != lookEvery || total > 3*lookEvery {
		t.Errorf("%v after %v", pause, total)
	}
	if got := nextLook(pause, 0, true); got != lookSoon {
		t.Errorf("after a change: %v", got)
	}
	if got := nextLook(pause, 20*time.Millisecond, false); got != 2*time.Second {
		t.Errorf("a look that takes 20ms: %v", got)
	}
	if got := nextLook(pause, time.Second, false); got != lookMost {
		t.Errorf("a look that takes a second: %v", got)
	}
}

func TestMembersAreRead(t *testing.T) {
	t.Parallel()
	const udp = `   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops
  100: 0100007F:0035 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 31 2 0000000000000000 0
  100: 0100007F:0035 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 7 2 0000000000000000 0
  100: 0100007F:0035 0200007F:1234 01 00000000:00000000 00:00000000 00000000     0        0 8 2 0000000000000000 0
  101: 0200007F:0035 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 9 2 0000000000000000 0
`
	const tcp = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:0035 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 11 1 0000000000000000 100 0 0 10 0
   1: 0100007F:0036 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 12 1 0000000000000000 100 0 0 10 0
   2: 0100007F:0035 0100007F:9876 01 00000000:00000000 00:00000000 00000000     0        0 13 1 0000000000000000 100 0 0 10 0
`
	for _, tt := range []struct {
		key  groupKey
		text string
		want string
	}{
		{groupKey{local: "0100007F:0035"}, udp, "[7 31]"},
		{groupKey{tcp: true, local: "0100007F:0035"}, tcp, "[11]"},
		{groupKey{local: "0100007F:0037"}, udp, "[]"},
	} {
		got, err := tt.key.scan(strings.NewReader(tt.text))
		if err != nil || fmt.Sprint(got) != tt.want {
			t.Errorf("%v: %v %v, want %s", tt.key, got, err, tt.want)
		}
	}
	if _, err := (groupKey{}).scan(strings.NewReader("heading\n1:  2\n")); err == nil {
		t.Error("a line of two fields")
	}
}

// pair is the UDP sockets and listeners of the fast path at an address.
type pair struct {
	*Group
	*Streams
}

func steeredPair(t *testing.T, addr string) pair {
	t.Helper()
	g := group(t, addr, Options{Workers: 2}, &echo{mark: "fast"})
	return pair{g, streams(t, addr, StreamOptions{Listeners: 2}, &streamEcho{mark: "fast"})}
}

// why returns why packets and connections are not steered, or "" if they are.
func (p pair) why() string {
	_, udp := p.Group.Steered()
	_, tcp := p.Streams.Steered()
	switch {
	case udp == nil && tcp == nil:
		return ""
	case udp != nil && tcp != nil && udp.Error() == tcp.Error():
		return udp.Error()
	}
	return fmt.Sprintf("UDP %v, TCP %v", udp, tcp)
}

// wait waits until p gets all packets, or its share because of other sockets.
func (p pair) wait(t *testing.T, why error) {
	t.Helper()
	want := ""
	if why != nil {
		want = why.Error()
	}
	until(t, "steering: "+want, func() bool { return p.why() == want })
}

// count asks n times over each of UDP and TCP and counts the answers by sender.
// A question without an answer, which a hanging process has, counts as "".
func count(t *testing.T, addr string, n int, moment time.Duration) map[string]int {
	t.Helper()
	got := map[string]int{}
	for _, network := range []string{"udp", "tcp"} {
		for range n {
			got[network+" "+once(t, network, addr, moment)]++
		}
	}
	return got
}

func once(t *testing.T, network, addr string, moment time.Duration) string {
	t.Helper()
	c, err := net.Dial(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(moment))
	query, skip := []byte("q"), 0
	if network == "tcp" {
		query, skip = frames("q"), 2
	}
	if _, err := c.Write(query); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 100)
	n, err := c.Read(buf)
	if err != nil || n < skip {
		return ""
	}
	return strings.TrimPrefix(string(buf[skip:n]), "q")
}

// onlyFast fails unless the fast path answers all questions.
func onlyFast(t *testing.T, when, addr string) {
	t.Helper()
	const n = 60
	if got := count(t, addr, n, inTime); got["udp fast"] != n || got["tcp fast"] != n {
		t.Errorf("%s: %v", when, got)
	}
}

// The server's own sockets change on a reload from four to one, and back
// (multisocket). The fast path's sockets get all packets, whatever their
// places.
func TestServersOwnSocketsComeAndGo(t *testing.T) {
	t.Parallel()
	addr := net.JoinHostPort("127.0.0.1", freePort(t))
	var own []func()
	open := func(n int) {
		for range n {
			closeIt, err := stock(addr, "own")
			if err != nil {
				t.Fatal(err)
			}
			own = append(own, closeIt)
		}
	}
	leave := func(n int) {
		for _, closeIt := range own[:n] {
			closeIt()
		}
		own = own[n:]
		Recheck()
	}
	open(4)
	defer func() { leave(len(own)) }()
	p := steeredPair(t, addr)
	p.wait(t, nil)
	onlyFast(t, "at first", addr)

	for i, step := range []func(){func() { leave(3) }, func() { open(4); leave(1) }, func() { leave(4) }, func() { open(2) }} {
		step()
		p.settled(t, len(own))
		onlyFast(t, fmt.Sprint("step ", i+1), addr)
	}
}

// settled waits for the filters of a group with so many other sockets.
func (p pair) settled(t *testing.T, others int) {
	t.Helper()
	until(t, "the members to be noticed", func() bool {
		steerings.mu.Lock()
		defer steerings.mu.Unlock()
		for _, st := range []*steering{p.Group.part.Load().st, p.Streams.part.Load().st} {
			if len(st.seen) != others+2 || st.why != nil {
				return false
			}
		}
		return true
	})
}

// Go makes 0.0.0.0 and :: the same: two addresses of a server, one group of the
// kernel.
func TestTwoAddressesInOneGroup(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	for _, host := range []string{"0.0.0.0", "::"} {
		closeIt, err := stock(net.JoinHostPort(host, port), "own")
		if err != nil {
			t.Fatal(err)
		}
		defer closeIt()
	}
	a, b := steeredPair(t, net.JoinHostPort("0.0.0.0", port)), steeredPair(t, net.JoinHostPort("::", port))
	a.wait(t, nil)
	b.wait(t, nil)
	for _, host := range []string{"127.0.0.1", "::1"} {
		onlyFast(t, host, net.JoinHostPort(host, port))
	}
	for i, w := range slices.Concat(a.Group.workers, b.Group.workers) {
		if w.counts.received.Load() == 0 {
			t.Errorf("worker %d got nothing", i)
		}
	}
	// One of them leaves, and the other one gets all packets.
	if err := errors.Join(a.Group.Close(), a.Streams.Close()); err != nil {
		t.Error(err)
	}
	onlyFast(t, "after one has left", net.JoinHostPort("127.0.0.1", port))
}

// Another process at the address gets its share, also if it was first. If it
// hangs, only its share is lost. After its end the fast path gets all packets
// again.
func TestAnotherProcessGetsItsShare(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("short mode: takes seconds")
	}
	for _, first := range []bool{true, false} {
		t.Run(fmt.Sprint("it was first: ", first), func(t *testing.T) {
			t.Parallel()
			addr := net.JoinHostPort("127.0.0.1", freePort(t))
			var p pair
			var it *process
			closeOwn, err := stock(addr, "own")
			if err != nil {
				t.Fatal(err)
			}
			defer closeOwn()
			if first {
				it = start(t, "sockets", addr, "3")
				p = steeredPair(t, addr)
			} else {
				p = steeredPair(t, addr)
				onlyFast(t, "alone", addr)
				it = start(t, "sockets", addr, "3")
			}
			p.wait(t, errShared)
			const n = 100
			got := count(t, addr, n, inTime)
			for _, who := range []string{"udp other", "tcp other", "udp fast", "tcp fast"} {
				if got[who] < n/10 {
					t.Errorf("%v", got)
				}
			}
			if err := it.Process.Signal(syscall.SIGSTOP); err != nil {
				t.Fatal(err)
			}
			got = count(t, addr, 20, 50*time.Millisecond)
			if lost := max(got["udp "], got["tcp "]); lost > 17 { // it has half of the sockets
				t.Errorf("with a process that hangs: %v", got)
			}
			it.done()
			p.wait(t, nil)
			onlyFast(t, "alone again", addr)
		})
	}
}

// If the places cannot be measured, packets are not steered.
func TestWithoutCertaintyNothingIsSteered(t *testing.T) {
	t.Parallel()
	addr := net.JoinHostPort("127.0.0.1", freePort(t))
	p := steeredPair(t, addr)
	st := p.Group.part.Load().st
	steerings.mu.Lock()
	defer steerings.mu.Unlock()
	// A seat that no packet reaches.
	ghost := &seat{inode: st.seats()[0].inode, control: st.seats()[0].control}
	st.parts[0].seats = append(st.parts[0].seats, ghost)
	closeIt, err := stock(addr, "own")
	if err != nil {
		t.Fatal(err)
	}
	defer closeIt()
	if st.settle(); !errors.Is(st.why, errUnlocated) || st.seen != nil {
		t.Errorf("%v", st.why)
	}
	st.parts[0].seats = st.parts[0].seats[:2]
	if st.settle(); st.why != nil || st.seen == nil {
		t.Errorf("%v", st.why)
	}
}

// A reply that the kernel rejects is counted, in a batch and outside of one.
func TestUnsentRepliesAreCounted(t *testing.T) {
	t.Parallel()
	addr := net.JoinHostPort("127.0.0.1", freePort(t))
	e := &echo{later: make(chan Origin, 1)}
	g := group(t, addr, Options{Workers: 1}, e)
	c, err := net.Dial("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte("later")); err != nil {
		t.Fatal(err)
	}
	o := <-e.later
	clear(o.name[2:4]) // the kernel rejects packets to port 0
	if err := o.Send([]byte("x")); !errors.Is(err, unix.EINVAL) {
		t.Errorf("%v", err)
	}
	if got := g.TakeUnsent(); got != 1 || g.Counts().Unsent != 1 {
		t.Errorf("%d unsent", got)
	}
	if got := g.TakeUnsent(); got != 0 {
		t.Errorf("%d again", got)
	}
}
