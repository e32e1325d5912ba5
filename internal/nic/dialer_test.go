package nic

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// fakeNet connects after a delay, in fake time.
type fakeNet struct {
	mu    sync.Mutex
	delay map[string]time.Duration // by remote address; negative means never
	fail  map[string]error
	calls []string
	open  int
}

func (f *fakeNet) connect(ctx context.Context, l local, network string, remote netip.AddrPort) (net.Conn, error) {
	addr := remote.Addr().String()
	f.mu.Lock()
	f.calls = append(f.calls, l.name+">"+addr)
	delay, err := f.delay[addr], f.fail[addr]
	f.mu.Unlock()
	timer := time.NewTimer(delay)
	defer timer.Stop()
	answered := timer.C
	if delay < 0 {
		answered = nil
	}
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-answered:
	}
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.open++
	return &fakeConn{f: f, addr: addr}, nil
}

type fakeConn struct {
	net.Conn
	f    *fakeNet
	addr string
}

func (c *fakeConn) Close() error {
	c.f.mu.Lock()
	defer c.f.mu.Unlock()
	c.f.open--
	return nil
}

// fakeResolver returns the answers in order, and then the last one again.
type fakeResolver struct {
	mu      sync.Mutex
	answers []string // addresses separated by spaces; "" fails
	lookups int
	gate    chan struct{} // if not nil, each lookup receives from it first
}

func (r *fakeResolver) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	if r.gate != nil {
		select {
		case <-r.gate:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	a := r.answers[min(r.lookups, len(r.answers)-1)]
	r.lookups++
	if a == "" {
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	var list []netip.Addr
	for _, s := range strings.Fields(a) {
		list = append(list, netip.MustParseAddr(s))
	}
	return list, nil
}

// newFake returns a dialer over f and r with two locals.
func newFake(t *testing.T, f *fakeNet, r Resolver, o Options) *Dialer {
	t.Helper()
	o.Resolver = r
	d, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	d.connect = f.connect
	d.locals = []local{{name: "a"}, {name: "b"}}
	d.pick = newPicker([]pickLocal{{name: "a", v4: true, v6: true}, {name: "b", v4: true, v6: true}})
	return d
}

func addrOf(t *testing.T, c net.Conn) string {
	t.Helper()
	return c.(*anyConn).Conn.(*fakeConn).addr
}

func TestDialsSpreadEvenly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeNet{}
		r := &fakeResolver{answers: []string{"10.0.0.1 10.0.0.2 10.0.0.3"}}
		d := newFake(t, f, r, Options{})
		var mu sync.Mutex
		got := map[string]int{}
		var conns []net.Conn
		var wg sync.WaitGroup
		for range 60 {
			wg.Go(func() {
				c, err := d.DialContext(t.Context(), "tcp", "store:443")
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				defer mu.Unlock()
				got[addrOf(t, c)]++
				conns = append(conns, c)
			})
		}
		wg.Wait()
		for a, n := range got {
			if n != 20 {
				t.Errorf("%s got %d of 60 connections, want 20", a, n)
			}
		}
		for _, s := range d.Stats() {
			if s.Active != 10 {
				t.Errorf("%+v: want 10 active", s)
			}
		}
		if r.lookups != 1 {
			t.Errorf("%d lookups for 60 dials, want 1", r.lookups)
		}
		for _, c := range conns {
			c.Close()
			c.Close() // closing twice counts once
		}
		if s := d.Stats(); len(s) != 0 {
			t.Errorf("after all closed: %+v", s)
		}
	})
}

func TestFailedPairIsSetAside(t *testing.T) {
	refused := &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
	synctest.Test(t, func(t *testing.T) {
		f := &fakeNet{fail: map[string]error{"10.0.0.1": refused}}
		d := newFake(t, f, &fakeResolver{answers: []string{"10.0.0.1 10.0.0.2"}}, Options{})
		start := time.Now()
		c, err := d.DialContext(t.Context(), "tcp", "store:443")
		if err != nil || addrOf(t, c) != "10.0.0.2" || time.Since(start) != 0 {
			t.Fatalf("%v after %v", err, time.Since(start))
		}
		// The dead address is set aside, so later dials do not use it.
		calls := len(f.calls)
		for range 10 {
			if c, err := d.DialContext(t.Context(), "tcp", "store:443"); err != nil || addrOf(t, c) != "10.0.0.2" {
				t.Fatal(err)
			}
		}
		if n := len(f.calls) - calls; n != 10 {
			t.Errorf("%d attempts for 10 dials", n)
		}
		// After its repair it is used again.
		f.fail = nil
		time.Sleep(maxBackoff)
		if c, err := d.DialContext(t.Context(), "tcp", "store:443"); err != nil || addrOf(t, c) != "10.0.0.1" {
			t.Errorf("the healed address is not used: %v", err)
		}
	})
}

func TestSilentAddressGetsCompetitor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeNet{delay: map[string]time.Duration{"10.0.0.1": -1}}
		d := newFake(t, f, &fakeResolver{answers: []string{"10.0.0.1 10.0.0.2"}}, Options{})
		start := time.Now()
		c, err := d.DialContext(t.Context(), "tcp", "store:443")
		if took := time.Since(start); err != nil || addrOf(t, c) != "10.0.0.2" || took != DefaultStagger {
			t.Fatalf("%v after %v, want a connection after %v", err, took, DefaultStagger)
		}
		start = time.Now()
		if _, err := d.DialContext(t.Context(), "tcp", "store:443"); err != nil || time.Since(start) != 0 {
			t.Errorf("the silent address was tried again at once: %v after %v", err, time.Since(start))
		}
	})
}

func TestDialErrorAfterAllPairs(t *testing.T) {
	boom := errors.New("boom")
	synctest.Test(t, func(t *testing.T) {
		f := &fakeNet{fail: map[string]error{"10.0.0.1": boom, "10.0.0.2": errors.New("other")}}
		d := newFake(t, f, &fakeResolver{answers: []string{"10.0.0.1 10.0.0.2"}}, Options{})
		for range 2 { // the error is the same for pairs that are set aside
			_, err := d.DialContext(t.Context(), "tcp", "store:443")
			var de *DialError
			if !errors.As(err, &de) || de.Attempts != 4 || de.Address != "store:443" {
				t.Fatalf("error %v", err)
			}
		}
		f.delay = map[string]time.Duration{"10.0.0.1": -1, "10.0.0.2": -1}
		start := time.Now()
		if _, err := d.DialContext(t.Context(), "tcp", "store:443"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("silence: %v", err)
		}
		// 4 attempts, a stagger apart, each with the timeout.
		if took, want := time.Since(start), DefaultTimeout+3*DefaultStagger; took != want {
			t.Errorf("silence took %v, want %v", took, want)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start = time.Now()
		if _, err := d.DialContext(ctx, "tcp", "store:443"); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Second {
			t.Errorf("deadline: %v after %v", err, time.Since(start))
		}
		if f.open != 0 {
			t.Errorf("%d connections left open", f.open)
		}
	})
}

// A second connection that is made at the same time must be closed.
func TestSlowerConnectionIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeNet{delay: map[string]time.Duration{"10.0.0.1": 2 * DefaultStagger, "10.0.0.2": DefaultStagger}}
		d := newFake(t, f, &fakeResolver{answers: []string{"10.0.0.1 10.0.0.2"}}, Options{})
		c, err := d.DialContext(t.Context(), "tcp", "store:443")
		if err != nil {
			t.Fatal(err)
		}
		if f.open != 1 {
			t.Errorf("%d connections open, want 1", f.open)
		}
		c.Close()
		if f.open != 0 {
			t.Errorf("%d connections open after Close", f.open)
		}
	})
}

func TestResolverAnswersAreCached(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &fakeResolver{answers: []string{"10.0.0.1", "10.0.0.2", "", "10.0.0.3"}}
		d := newFake(t, &fakeNet{}, r, Options{})
		dial := func() string {
			t.Helper()
			c, err := d.DialContext(t.Context(), "tcp", "store:443")
			if err != nil {
				return err.Error()
			}
			defer c.Close()
			return addrOf(t, c)
		}
		for _, want := range []struct {
			after time.Duration
			addr  string
		}{
			{0, "10.0.0.1"},
			{MaxTTL - 1, "10.0.0.1"},
			{1, "10.0.0.2"},
			{MaxTTL, "10.0.0.2"}, // the lookup failed, and the old answer is used
			{retryLookup, "10.0.0.3"},
		} {
			time.Sleep(want.after)
			if got := dial(); got != want.addr {
				t.Errorf("after %v: %s, want %s", want.after, got, want.addr)
			}
		}
		r.answers = []string{""}
		time.Sleep(staleFor + MaxTTL)
		if got := dial(); !strings.Contains(got, "look up store") {
			t.Errorf("an answer older than %v still serves: %s", staleFor, got)
		}
	})
}

// Dials that wait for another's lookup get its answer, and do not fail
// because the other one gave up.
func TestLookupShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &fakeResolver{answers: []string{"10.0.0.1"}, gate: make(chan struct{})}
		d := newFake(t, &fakeNet{}, r, Options{})
		ctx, cancel := context.WithCancel(t.Context())
		leader := make(chan error, 1)
		go func() {
			_, err := d.DialContext(ctx, "tcp", "store:443")
			leader <- err
		}()
		synctest.Wait()
		var wg sync.WaitGroup
		for range 5 {
			wg.Go(func() {
				if _, err := d.DialContext(t.Context(), "tcp", "store:443"); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		cancel()
		if err := <-leader; !errors.Is(err, context.Canceled) {
			t.Errorf("the cancelled dial: %v", err)
		}
		r.gate <- struct{}{}
		wg.Wait()
		if r.lookups != 1 {
			t.Errorf("%d lookups", r.lookups)
		}
	})
}

func TestNameCacheIsBounded(t *testing.T) {
	n := names{resolver: &fakeResolver{answers: []string{"10.0.0.1"}}, ttl: MaxTTL, entries: map[string]*answer{}}
	for i := range 3 * maxNames {
		if _, err := n.lookup(t.Context(), "ip", fmt.Sprintf("host%d", i)); err != nil {
			t.Fatal(err)
		}
	}
	if len(n.entries) > maxNames {
		t.Errorf("%d names kept, at most %d", len(n.entries), maxNames)
	}
}

func TestBadInput(t *testing.T) {
	for _, c := range []struct {
		locals []string
		ttl    time.Duration
		want   string
	}{
		{locals: []string{""}, want: "empty"},
		{locals: []string{"lo", "lo"}, want: "twice"},
		{locals: []string{"0.0.0.0"}, want: "routing table"},
		{locals: []string{"203.0.113.7"}, want: "203.0.113.7 is not on this host"},
		{locals: []string{"nosuchif0"}, want: `no interface or address "nosuchif0"`},
		{ttl: time.Minute, want: "at most 30s"},
	} {
		_, err := New(Options{Locals: c.locals, TTL: c.ttl})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("locals %q: error %v, want one with %q", c.locals, err, c.want)
		}
		if checked := Check(c.locals); c.ttl == 0 && (checked == nil || "nic: "+checked.Error() != err.Error()) {
			t.Errorf("Check(%q) = %v, New says %v", c.locals, checked, err)
		}
	}
	d, err := New(Options{Locals: []string{"127.0.0.1"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ network, address, want string }{
		{"udp", "127.0.0.1:1", "use tcp"},
		{"tcp", "127.0.0.1", "missing port"},
		{"tcp", ":1", "host is empty"},
		{"tcp", "127.0.0.1:nosuchservice", "nosuchservice"},
		{"tcp6", "127.0.0.1:1", "no IPv6 address"},
		{"tcp", "[::1]:1", "same family"},
	} {
		_, err := d.DialContext(t.Context(), c.network, c.address)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s %s: error %v, want one with %q", c.network, c.address, err, c.want)
		}
	}
}

// With real sockets both local addresses are used, and a refusal is recognizable.
func TestLoopback(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d, err := New(Options{Locals: []string{"127.0.0.1", "127.0.0.2"}})
	if err != nil {
		t.Skipf("needs 127.0.0.2: %v", err)
	}
	from := map[string]bool{}
	for range 2 {
		c, err := d.DialContext(t.Context(), "tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		from[c.LocalAddr().(*net.TCPAddr).IP.String()] = true
	}
	if len(from) != 2 {
		t.Errorf("connections from %v, want both locals", from)
	}
	ln.Close()
	if _, err := d.DialContext(t.Context(), "tcp", ln.Addr().String()); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("refused: %v", err)
	}
}

func TestInterfaces(t *testing.T) {
	list, err := Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range list {
		if _, err := New(Options{Locals: []string{i.Name}}); err != nil {
			t.Errorf("%s is listed but unusable: %v", i.Name, err)
		}
		for _, a := range i.Addrs {
			if a.IsLoopback() || a.IsLinkLocalUnicast() {
				t.Errorf("%s: %s is not usable", i.Name, a)
			}
		}
	}
}

func TestDialAllowed(t *testing.T) {
	refusal := errors.New("refused")
	synctest.Test(t, func(t *testing.T) {
		f := &fakeNet{}
		d := newFake(t, f, &fakeResolver{answers: []string{"10.0.0.1 10.0.0.2 10.0.0.3"}}, Options{})
		only := func(addr string) func(netip.Addr) error {
			return func(a netip.Addr) error {
				if a.String() != addr {
					return refusal
				}
				return nil
			}
		}
		for range 4 {
			if c, err := d.DialAllowed(t.Context(), "tcp", "store:443", only("10.0.0.2")); err != nil || addrOf(t, c) != "10.0.0.2" {
				t.Fatalf("dial with one allowed address: %v", err)
			}
		}
		calls := len(f.calls)
		_, err := d.DialAllowed(t.Context(), "tcp", "store:443", only("none"))
		var de *DialError
		if !errors.Is(err, refusal) || !errors.As(err, &de) {
			t.Errorf("dial without an allowed address: error %v", err)
		}
		if len(f.calls) != calls || calls != 4 {
			t.Errorf("%d connection attempts, want 4: refused addresses must see no packet", len(f.calls))
		}
	})
}
