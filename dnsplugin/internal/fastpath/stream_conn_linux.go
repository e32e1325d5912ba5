//go:build amd64 || arm64

package fastpath

import (
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Conn is a connection. One goroutine reads from it and calls the handler.
// While it waits, in the runtime's poller, it has no thread and no buffer.
//
// Nobody who sends waits for a client, but in SendAll: what the kernel does
// not take is kept, within the bound of all connections, and written by a
// goroutine that lives as long as something is kept.
type Conn struct {
	// Hint is for the handler: it belongs to the goroutine that calls it.
	Hint uint32

	group *Streams
	tcp   *net.TCPConn
	tls   *tlsLayer // nil for plain TCP
	raw   syscall.RawConn
	peer  netip.AddrPort

	// Of the goroutine that reads.
	begun    int       // messages that were split off
	kept     []byte    // of the input, not served yet
	whole    bool      // kept may begin with a whole message
	deadline time.Time // as it is set at the socket
	clock    clock
	burst    *Burst   // only while input is served
	protocol Protocol // nil for messages behind their lengths
	got      int      // of the latest read
	gotErr   error
	read     func(fd uintptr) bool
	readNow  func(fd uintptr)

	pending atomic.Int32 // answers to come, see Hold
	usedAt  atomic.Int64 // when it was last used, in Unix nanoseconds

	mu       sync.Mutex // guards all below; held for a write that doesn't wait
	changed  sync.Cond  // something below, or pending, has
	broken   error      // why nothing more can be sent
	stopping bool       // Close has been called
	unsent   []byte     // whole replies, but for the first, whose start may be out
	flushing bool       // a goroutine writes what was in unsent
	answered time.Time  // when the latest answer of pending was sent
	out      []byte     // for write
	sent     int        // by write
	sentErr  error
	write    func(fd uintptr) bool
}

func newConn(g *Streams, tcp *net.TCPConn) (*Conn, error) {
	raw, err := tcp.SyscallConn()
	if err != nil {
		return nil, err
	}
	remote, ok := tcp.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return nil, fmt.Errorf("fastpath: no TCP peer but %v", tcp.RemoteAddr())
	}
	peer := remote.AddrPort()
	c := &Conn{group: g, tcp: tcp, raw: raw, peer: netip.AddrPortFrom(peer.Addr().Unmap(), peer.Port())}
	c.changed.L = &c.mu
	c.usedAt.Store(time.Now().UnixNano())
	// Made once: a closure for each call would be an allocation.
	c.read, c.readNow, c.write = c.tryRead, func(fd uintptr) { c.tryRead(fd) }, c.tryWrite
	if config := g.config.Load(); config != nil {
		c.tls = newTLSLayer(c, config)
	}
	return c, nil
}

// ConnectionState is the state of TLS, or nil over plain TCP.
func (c *Conn) ConnectionState() *tls.ConnectionState {
	if c.tls == nil {
		return nil
	}
	state := c.tls.ConnectionState()
	return &state
}

// used implements occupant.
func (c *Conn) used() (busy bool, at int64) { return c.pending.Load() > 0, c.usedAt.Load() }

// Peer is the address of the client.
func (c *Conn) Peer() netip.AddrPort { return c.peer }

// LocalAddr is the address that the client has connected to.
func (c *Conn) LocalAddr() net.Addr { return c.tcp.LocalAddr() }

// RemoteAddr is Peer as a *net.TCPAddr.
func (c *Conn) RemoteAddr() net.Addr { return c.tcp.RemoteAddr() }

// Handler is the handler that connections have now: the latest of Swap.
func (c *Conn) Handler() StreamHandler { return c.group.handler.Load().StreamHandler }

// Hold says that a reply will be sent later: until Done the connection stays
// open, also if the client sends no more.
func (c *Conn) Hold() { c.pending.Add(1) }

// Done ends a Hold.
func (c *Conn) Done() {
	c.pending.Add(-1)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.answered = time.Now()
	c.changed.Broadcast()
}

// Busy reports whether so many answers are held that none should be added.
func (c *Conn) Busy() bool { return c.pending.Load() >= MaxPending }

// Send sends a message. It does not wait: what the client does not take now
// is kept. It fails if the connection has ended, or the client is too slow.
func (c *Conn) Send(p []byte) error {
	if len(p) > MaxMessage {
		return fmt.Errorf("fastpath: a message of %d bytes: at most %d have room", len(p), MaxMessage)
	}
	frame := binary.BigEndian.AppendUint16(make([]byte, 0, lengthLen+len(p)), uint16(len(p)))
	return c.send(append(frame, p...))
}

// SendBytes is Send for bytes of a protocol, without a length before them.
func (c *Conn) SendBytes(p []byte) error { return c.send(p) }

// SendAll sends a message and waits until the client has taken all before it,
// or falls behind the write timeout.
func (c *Conn) SendAll(p []byte) error {
	if err := c.Send(p); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.flushing && c.broken == nil {
		c.changed.Wait()
	}
	return c.broken
}

// Close ends the connection at once.
func (c *Conn) Close() error {
	c.fail(net.ErrClosed)
	return nil
}

// run serves the connection until it ends.
func (c *Conn) run() {
	defer c.group.forget(c)
	c.clock = clock{first: true, active: time.Now()}
	for c.receive() {
		if !c.serve() {
			break
		}
	}
	c.finish()
	if c.protocol != nil {
		c.protocol.Close()
	}
	c.keep(nil)
}

// receive waits for input and reads it into a burst. It reports false at the
// end of the connection.
func (c *Conn) receive() bool {
	if c.tls != nil {
		return c.receiveTLS()
	}
	if c.whole {
		c.begin()
		return true
	}
	err := c.await()
	switch {
	case err == nil:
		return true
	case c.expired(err):
		return c.last()
	default:
		c.failUnlessEOF(err)
		return false
	}
}

// await waits for input and reads it: into a burst, or into the buffer of the
// TLS layer. Its error is os.ErrDeadlineExceeded if the connection has to end.
func (c *Conn) await() error {
	for {
		c.arm()
		c.got, c.gotErr = 0, nil
		err := c.raw.Read(c.read)
		if err == nil {
			err = c.gotErr
		}
		if !c.expired(err) || c.ended() {
			return err
		}
	}
}

// expired reports whether err says that a deadline has come.
func (c *Conn) expired(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }

// begin gets a burst with the input that was kept, and returns the room for more.
func (c *Conn) begin() []byte {
	c.burst, _ = bursts.Get().(*Burst)
	return c.burst.start(c.kept)
}

// tryRead is what the runtime calls when there may be input. It reports false
// to be called again.
func (c *Conn) tryRead(fd uintptr) bool {
	var room []byte
	if c.tls != nil {
		room = c.tls.room()
	} else {
		room = c.begin()
	}
	n, errno := transfer(unix.SYS_RECVFROM, fd, room, unix.MSG_DONTWAIT)
	if errno == 0 && n > 0 {
		c.got = n
		if c.tls != nil {
			c.tls.received(n)
		} else {
			c.burst.filled += n
		}
		return true
	}
	if c.tls != nil {
		c.tls.release()
	} else {
		bursts.Put(c.burst)
		c.burst = nil
	}
	switch errno {
	case unix.EAGAIN:
		return false
	case 0:
		c.gotErr = io.EOF
	default:
		c.gotErr = os.NewSyscallError("recvfrom", errno)
	}
	return true
}

// arm sets the deadline of the next read.
func (c *Conn) arm() {
	limits := c.group.handler.Load().limits
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stopping {
		return // it is in the past, and stays there
	}
	if c.answered.After(c.clock.active) {
		c.clock.active = c.answered
	}
	end := c.clock.end(limits)
	if c.pending.Load() > 0 {
		end = time.Now().Add(limits.Idle)
	}
	// A deadline that is too early is found out about when it has come. So a
	// message costs no change of a timer.
	if c.deadline.IsZero() || end.Before(c.deadline) || !c.deadline.After(time.Now()) {
		c.deadline = end
		_ = c.tcp.SetReadDeadline(end)
	}
}

// ended looks at a deadline that has come. If it is not the end, arm sets the next.
func (c *Conn) ended() bool {
	limits := c.group.handler.Load().limits
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stopping {
		return true
	}
	if c.answered.After(c.clock.active) {
		c.clock.active = c.answered
	}
	return c.pending.Load() == 0 && !c.clock.end(limits).After(time.Now())
}

// last takes what has come before Close: it is answered too.
func (c *Conn) last() bool {
	c.mu.Lock()
	stopping := c.stopping
	c.mu.Unlock()
	c.got, c.gotErr = 0, nil
	return stopping && c.raw.Control(c.readNow) == nil && c.got > 0
}

// serve hands the messages of the burst to the handler and sends the replies.
// It reports false if there is nothing more to read.
func (c *Conn) serve() bool {
	b := c.burst
	h := c.group.handler.Load()
	c.whole = false
	if c.protocol != nil {
		return c.serveProtocol()
	}
	for !c.whole {
		if b.n == 0 {
			b.split(c.more(h.limits))
			c.begun += b.n
		}
		if b.n == 0 {
			break
		}
		c.clock.first = false
		b.served(h.ServeStream(c, b))
		if b.Full() {
			c.flush(b)
			// A few bytes can ask for many: no more than one write's worth of
			// them is made before the client takes it.
			c.whole = c.behind()
		} else {
			c.whole = b.n > 0 && c.Busy()
		}
	}
	c.flush(b)
	c.clock.active = time.Now()
	c.usedAt.Store(c.clock.active.UnixNano())
	c.keep(b.rest())
	c.begun -= b.n
	clear(b.msgs[:])
	b.n = 0
	c.burst = nil
	bursts.Put(b)
	return c.settle() && c.more(h.limits) > 0
}

// serveProtocol is serve for a connection with a protocol of its own.
func (c *Conn) serveProtocol() bool {
	b := c.burst
	for {
		used, out, more, err := c.protocol.Feed(b.in[b.at:b.filled], b.out)
		b.out = out
		b.at += used
		if used > 0 {
			c.clock.first, c.clock.active = false, time.Now()
		}
		c.flush(b)
		if err != nil {
			c.fail(err)
		}
		if !more {
			break
		}
		// As in serve, no more than one write is made in advance.
		if c.whole = c.behind() || c.Busy(); c.whole {
			break
		}
	}
	c.usedAt.Store(time.Now().UnixNano())
	c.keep(b.in[b.at:b.filled])
	c.burst = nil
	bursts.Put(b)
	return c.settle()
}

// more is how many messages may still be taken.
func (c *Conn) more(l StreamLimits) int {
	if l.Messages <= 0 {
		return MaxBurst
	}
	return l.Messages - c.begun
}

// keep holds on to input that could not be served yet. Connections that
// always have some go on with the same memory.
func (c *Conn) keep(rest []byte) {
	before := beyondSmall(c.kept)
	if len(rest) == 0 && cap(c.kept) > small {
		c.kept = nil
	} else {
		c.kept = append(c.kept[:0], rest...)
	}
	more := beyondSmall(c.kept) - before
	if more != 0 && c.group.held.Add(more) > maxHeld && more > 0 {
		c.fail(ErrSlow)
	}
}

// beyondSmall is how much of kept input counts.
func beyondSmall(kept []byte) int64 { return int64(max(0, len(kept)-small)) }

// flush sends the replies that b has gathered.
func (c *Conn) flush(b *Burst) {
	if len(b.out) == 0 {
		return
	}
	// An error is found by settle.
	_ = c.send(b.out)
	b.out = b.out[:0]
}

// behind reports whether the client has to read before more can be sent.
func (c *Conn) behind() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.flushing || c.broken != nil
}

// settle waits until the client has taken what was sent, and until few enough
// answers are pending: that is how TCP tells it to slow down. It reports false
// if the connection is broken.
func (c *Conn) settle() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.broken == nil && (c.flushing || c.Busy()) {
		c.changed.Wait()
	}
	return c.broken == nil
}

// finish closes the connection when all that is held is answered and taken.
func (c *Conn) finish() {
	c.mu.Lock()
	for c.broken == nil && (c.flushing || c.pending.Load() > 0) {
		c.changed.Wait()
	}
	c.mu.Unlock()
	if c.protocol != nil {
		c.sayGoodbye()
	}
	if c.tls != nil && c.tls.established && !c.tls.passed {
		_ = c.tls.CloseWrite() // so that the client knows that nothing is missing
	}
	c.fail(net.ErrClosed)
}

// sayGoodbye announces the end of a protocol.
func (c *Conn) sayGoodbye() {
	if p := c.protocol.GoAway(nil); len(p) > 0 {
		_ = c.send(p)
	}
}

// stop makes the connection end after what has come so far.
func (c *Conn) stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stopping = true
	_ = c.tcp.SetReadDeadline(past)
}

// fail closes the connection, if it is not closed yet, because of err.
func (c *Conn) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failLocked(err)
}

// failLocked is fail; c.mu must be held.
func (c *Conn) failLocked(err error) {
	if c.broken != nil {
		return
	}
	if errors.Is(err, ErrSlow) {
		c.group.slow.Add(1)
	}
	c.broken = err
	_ = c.tcp.Close()
	c.group.held.Add(-int64(len(c.unsent)))
	c.unsent = nil
	c.changed.Broadcast()
}

// send writes whole replies, after all replies that were sent before.
func (c *Conn) send(p []byte) error {
	if c.tls != nil {
		return c.tls.send(p)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sendLocked(p)
}

// sendLocked writes p to the socket, after all bytes that were sent before; c.mu must be held.
func (c *Conn) sendLocked(p []byte) error {
	if c.broken == nil && !c.flushing {
		p = c.writeSome(p)
	}
	if c.broken != nil {
		return c.broken
	}
	if len(p) == 0 {
		return nil
	}
	if c.group.held.Add(int64(len(p))) > maxHeld {
		c.group.held.Add(-int64(len(p)))
		c.failLocked(ErrSlow)
		return ErrSlow
	}
	c.unsent = append(c.unsent, p...)
	if !c.flushing {
		c.flushing = true
		// The one who reads has not ended, since nothing is broken: so Close,
		// which waits for it, waits for this one too.
		c.group.running.Go(c.catchUp)
	}
	return nil
}

// writeSome writes what the kernel takes at once of p and returns the rest.
// The caller holds the lock.
func (c *Conn) writeSome(p []byte) []byte {
	for len(p) > 0 {
		c.out, c.sent, c.sentErr = p, 0, nil
		err := c.raw.Write(c.write)
		c.out = nil
		if err == nil {
			err = c.sentErr
		}
		if err != nil {
			c.failLocked(err)
			return nil
		}
		if c.sent == 0 {
			break
		}
		p = p[c.sent:]
	}
	return p
}

// tryWrite is what the runtime calls to write. It never asks for more.
func (c *Conn) tryWrite(fd uintptr) bool {
	n, errno := transfer(unix.SYS_SENDTO, fd, c.out, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
	switch errno {
	case 0:
		c.sent = n
	case unix.EAGAIN:
	default:
		c.sentErr = os.NewSyscallError("sendto", errno)
	}
	return true
}

// catchUp writes what the client did not take, as fast as it does, and ends.
func (c *Conn) catchUp() {
	for {
		c.mu.Lock()
		p := c.unsent[:min(len(c.unsent), writeAtOnce)]
		if len(p) == 0 {
			c.flushing, c.unsent = false, nil
			_ = c.tcp.SetWriteDeadline(time.Time{})
			c.changed.Broadcast()
			c.mu.Unlock()
			return
		}
		limit := c.group.handler.Load().limits.Write
		c.mu.Unlock()
		_ = c.tcp.SetWriteDeadline(time.Now().Add(limit))
		_, err := c.tcp.Write(p)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			err = ErrSlow
		}
		c.mu.Lock()
		if err != nil {
			c.failLocked(err)
		}
		if c.broken == nil {
			c.unsent = c.unsent[len(p):]
			c.group.held.Add(-int64(len(p)))
		}
		c.mu.Unlock()
	}
}

// transfer calls the kernel to send or receive p without waiting. It need not
// tell the scheduler, see worker.receive.
func transfer(trap, fd uintptr, p []byte, flags uintptr) (int, unix.Errno) {
	if len(p) == 0 {
		return 0, unix.EINVAL
	}
	for {
		n, _, errno := unix.RawSyscall6(trap, fd, uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)), flags, 0, 0) //nolint:gosec // the kernel takes pointers as numbers
		if errno != unix.EINTR {
			return int(n), errno
		}
	}
}

// readable reports whether a listener has a connection to accept.
func readable(fd uintptr) bool {
	p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	n, err := unix.Poll(p, 0)
	return err == nil && n > 0
}
