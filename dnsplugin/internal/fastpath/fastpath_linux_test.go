//go:build amd64 || arm64

package fastpath

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// inTime is how long a test waits for an event. Only a failing test waits so
// long, so it is as long as a loaded machine may need.
const inTime = time.Minute

func TestMain(m *testing.M) {
	if args := os.Getenv(asChild); args != "" {
		child(strings.Fields(args))
		return
	}
	goleak.VerifyTestMain(m)
}

// echo replies with the packet and a mark. Packets that begin with "later" go
// to a channel with their origin, those that begin with "no" get no reply.
type echo struct {
	mark  string
	later chan Origin
}

func (e *echo) Serve(_ int, b *Batch) bool {
	for i := range b.Len() {
		p := b.Packet(i)
		switch {
		case bytes.HasPrefix(p, []byte("later")):
			e.later <- b.Origin(i)
		case bytes.HasPrefix(p, []byte("family")):
			b.Reply(i, len(fmt.Appendf(b.Buffer(), "%v", b.IPv4(i))))
		case !bytes.HasPrefix(p, []byte("no")):
			b.Reply(i, len(append(append(b.Buffer(), p...), e.mark...)))
		}
	}
	return true
}

// lastPort makes ports differ within this process, and most likely between
// processes.
var lastPort atomic.Uint32

func init() { lastPort.Store(rand.Uint32()) }

// freePort returns a port that is free for UDP and TCP now. It is below the
// range from which the kernel gives ports to the many clients of the tests.
func freePort(t *testing.T) string {
	t.Helper()
	for range 1000 {
		port := strconv.Itoa(12_000 + int(lastPort.Add(1)%20_000))
		c, err := net.ListenPacket("udp", ":"+port)
		if err != nil {
			continue
		}
		l, err := net.Listen("tcp", ":"+port)
		c.Close()
		if err != nil {
			continue
		}
		l.Close()
		return port
	}
	t.Fatal("no free port")
	return ""
}

func group(t *testing.T, addr string, opts Options, h Handler) *Group {
	t.Helper()
	g, err := Listen(addr, opts, h)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	})
	return g
}

// ask sends p to addr and returns the reply. The socket is connected, so a
// reply from another address never arrives.
func ask(t *testing.T, addr, p string) string {
	t.Helper()
	c, err := net.Dial("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	return exchange(t, c, p)
}

func exchange(t *testing.T, c net.Conn, p string) string {
	t.Helper()
	_ = c.SetDeadline(time.Now().Add(inTime))
	if _, err := c.Write([]byte(p)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 1<<16)
	n, err := c.Read(buf)
	if err != nil {
		t.Fatalf("%s: %v", c.RemoteAddr(), err)
	}
	return string(buf[:n])
}

func TestRepliesComeFromTheAddressThatWasAsked(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		listen string
		ask    []string
	}{
		{"127.0.0.1", []string{"127.0.0.1"}},
		{"::1", []string{"::1"}},
		{"", []string{"127.0.0.1", "127.0.0.2", "127.3.2.1", "::1"}},
		{"0.0.0.0", []string{"127.0.0.1", "127.0.0.2"}},
		{"::", []string{"::1", "127.0.0.7"}},
	} {
		port := freePort(t)
		e := &echo{mark: "!", later: make(chan Origin, 1)}
		group(t, net.JoinHostPort(tt.listen, port), Options{Workers: 2}, e)
		for _, host := range tt.ask {
			addr := net.JoinHostPort(host, port)
			for range 3 {
				if got := ask(t, addr, "hello"); got != "hello!" {
					t.Fatalf("%s: %q", addr, got)
				}
			}
			if got, want := ask(t, addr, "family"), fmt.Sprint(net.ParseIP(host).To4() != nil); got != want {
				t.Errorf("%s: IPv4 %s", addr, got)
			}
			// A reply that is sent later comes from the same address.
			c, err := net.Dial("udp", addr)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := c.Write([]byte("later")); err != nil {
				t.Fatal(err)
			}
			o := <-e.later
			if got, want := o.Peer(), netip.MustParseAddrPort(c.LocalAddr().String()); got != want {
				t.Errorf("peer %v, want %v", got, want)
			}
			if err := o.Send([]byte("at last")); err != nil {
				t.Fatal(err)
			}
			_ = c.SetReadDeadline(time.Now().Add(inTime))
			buf := make([]byte, 100)
			if n, err := c.Read(buf); err != nil || string(buf[:n]) != "at last" {
				t.Errorf("%s: %q %v", addr, buf[:n], err)
			}
			c.Close()
		}
	}
}

// Every packet of a burst that is larger than a batch is answered, to its
// sender.
func TestBurst(t *testing.T) {
	t.Parallel()
	addr := net.JoinHostPort("127.0.0.1", freePort(t))
	g := group(t, addr, Options{Workers: 2, Batch: 8}, &echo{})
	var wg sync.WaitGroup
	for client := range 5 {
		wg.Go(func() {
			c, err := net.Dial("udp", addr)
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			want := map[string]bool{}
			for i := range 50 {
				p := fmt.Sprintf("%d-%d", client, i)
				want[p] = true
				if _, err := c.Write([]byte(p)); err != nil {
					t.Error(err)
				}
			}
			_ = c.SetReadDeadline(time.Now().Add(inTime))
			buf := make([]byte, 100)
			for len(want) > 0 {
				n, err := c.Read(buf)
				if err != nil || !want[string(buf[:n])] {
					t.Errorf("%q %v", buf[:n], err)
					return
				}
				delete(want, string(buf[:n]))
			}
		})
	}
	wg.Wait()
	addr2 := addr // one more, so that the counters of the last batch are there
	_ = ask(t, addr2, "x")
	if c := g.Counts(); c.Received < 250 || c.Unsent != 0 || c.Batches == 0 || c.Batches > c.Received {
		t.Errorf("%+v", c)
	}
}

// With steering the server's own socket gets no packets, from any client.
func TestSteeringLeavesTheServersSocketAlone(t *testing.T) {
	t.Parallel()
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1) })
	}}
	own, err := lc.ListenPacket(t.Context(), "udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	addr := own.LocalAddr().String()
	g := group(t, addr, Options{Workers: 3}, &echo{mark: "fast"})
	if ok, err := g.Steered(); !ok {
		t.Fatal(err)
	}
	for i := range 100 {
		if got := ask(t, addr, fmt.Sprint(i)); got != fmt.Sprint(i)+"fast" {
			t.Fatalf("%q", got)
		}
	}
	for i, w := range g.workers {
		if w.counts.received.Load() == 0 {
			t.Errorf("worker %d got nothing of 100 packets", i)
		}
	}
	_ = own.SetReadDeadline(time.Now())
	if n, _, err := own.ReadFrom(make([]byte, 10)); err == nil {
		t.Errorf("the server's socket got %d bytes", n)
	}
}

func TestSwap(t *testing.T) {
	t.Parallel()
	addr := net.JoinHostPort("127.0.0.1", freePort(t))
	g := group(t, addr, Options{Workers: 1}, &echo{mark: "1"})
	c, err := net.Dial("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got := exchange(t, c, "a"); got != "a1" {
		t.Errorf("%q", got)
	}
	g.Swap(&echo{mark: "2"})
	if got := exchange(t, c, "b"); got != "b2" {
		t.Errorf("%q", got)
	}
}

// stuck is an echo whose first batch waits for a signal.
type stuck struct {
	echo
	once           sync.Once
	entered, leave chan struct{}
}

func (s *stuck) Serve(worker int, b *Batch) bool {
	s.once.Do(func() {
		close(s.entered)
		<-s.leave
	})
	return s.echo.Serve(worker, b)
}

// The packets in a socket's buffer are answered when it is closed.
func TestCloseAnswersWhatIsQueued(t *testing.T) {
	t.Parallel()
	addr := net.JoinHostPort("127.0.0.1", freePort(t))
	h := &stuck{echo: echo{mark: "!"}, entered: make(chan struct{}), leave: make(chan struct{})}
	g := group(t, addr, Options{Workers: 1, Batch: 16}, h)
	c, err := net.Dial("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	const packets = 100
	for i := range packets + 1 {
		if _, err := fmt.Fprintf(c, "%d", i); err != nil { // over loopback the packet is in the receiver's queue now
			t.Fatal(err)
		}
		if i == 0 {
			<-h.entered
		}
	}
	closed := make(chan error)
	go func() { closed <- g.Close() }()
	for !g.workers[0].sock.closing.Load() {
		runtime.Gosched()
	}
	close(h.leave)
	if err := <-closed; err != nil {
		t.Error(err)
	}
	_ = c.SetReadDeadline(time.Now().Add(inTime))
	buf := make([]byte, 512)
	for i := range packets + 1 {
		n, err := c.Read(buf)
		if want := fmt.Sprintf("%d!", i); err != nil || string(buf[:n]) != want {
			t.Fatalf("%q, %v, want %q", buf[:n], err, want)
		}
	}
}

func TestPacketTooLongIsEmpty(t *testing.T) {
	t.Parallel()
	addr := net.JoinHostPort("127.0.0.1", freePort(t))
	group(t, addr, Options{Workers: 1}, &echo{mark: "empty"})
	if got := ask(t, addr, string(make([]byte, MaxPacket+1))); got != "empty" {
		t.Errorf("%d bytes", len(got))
	}
	if got := ask(t, addr, string(make([]byte, MaxPacket-5))); len(got) != MaxPacket {
		t.Errorf("%d bytes", len(got))
	}
}

func TestSendAfterClose(t *testing.T) {
	t.Parallel()
	addr := net.JoinHostPort("127.0.0.1", freePort(t))
	e := &echo{later: make(chan Origin, 1)}
	g, err := Listen(addr, Options{Workers: 1}, e)
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte("later")); err != nil {
		t.Fatal(err)
	}
	o := <-e.later
	for range 2 {
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := o.Send([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("%v", err)
	}
	if err := o.Send(nil); err == nil {
		t.Error("an empty packet was sent")
	}
}

func TestListenSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	taken, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for _, addr := range []string{"127.0.0.1:0", "127.0.0.1", "192.0.2.1:5353", taken.LocalAddr().String()} {
		if _, err := Listen(addr, Options{}, &echo{}); err == nil {
			t.Errorf("%s: no error", addr)
		}
	}
	if _, err := Listen("127.0.0.1:5353", Options{Workers: -1}, &echo{}); err == nil {
		t.Error("-1 workers")
	}
}

// The fields that a worker writes for each batch share no cache line with
// fields of another worker.
func TestWorkersDoNotShareCacheLines(t *testing.T) {
	t.Parallel()
	var w worker
	if at := unsafe.Offsetof(w.counts); at < line {
		t.Errorf("counts at %d", at)
	}
	if rest := unsafe.Sizeof(w) - unsafe.Offsetof(w.drained) - unsafe.Sizeof(w.drained); rest < line {
		t.Errorf("%d bytes after what it writes", rest)
	}
	var b Batch
	if before, after := unsafe.Offsetof(b.n), unsafe.Sizeof(b)-unsafe.Offsetof(b.controls)-unsafe.Sizeof(b.controls); before < line || after < line {
		t.Errorf("a batch has %d bytes before and %d after it", before, after)
	}
	var s socket
	if before, after := unsafe.Offsetof(s.fd), unsafe.Sizeof(s)-unsafe.Offsetof(s.gone)-unsafe.Sizeof(s.gone); before < line || after < line {
		t.Errorf("a socket has %d bytes before and %d after it", before, after)
	}
	if stride%64 != 0 || stride&(stride-1) == 0 {
		t.Errorf("stride %d", stride)
	}
}

func TestBatchesDoNotAllocate(t *testing.T) {
	addr := net.JoinHostPort("127.0.0.1", freePort(t))
	group(t, addr, Options{Workers: 1}, &echo{})
	c, err := net.Dial("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(inTime))
	p, buf := []byte("hello"), make([]byte, 100)
	if n := testing.AllocsPerRun(1000, func() {
		if _, err := c.Write(p); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(buf); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations per packet", n)
	}
}
