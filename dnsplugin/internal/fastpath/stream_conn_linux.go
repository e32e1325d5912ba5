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
// While that goroutine waits, it is in the runtime's poller without a thread or
// a buffer.
//
// Send does not wait for the client, only SendAll does. Bytes that the kernel
// does not accept are kept, within the bound for all connections, and written
// by a goroutine that ends when all are written.
type Conn struct {
	// Hint is for use by the handler, from the goroutine that calls it.
	Hint uint32

	group *Streams
	tcp   *net.TCPConn
	tls   *tlsLayer // nil for plain TCP
	raw   syscall.RawConn
	peer  netip.AddrPort

	// Owned by the goroutine that reads.
	begun    int       // messages so far
	kept     []byte    // input that has not been served
	whole    bool      // kept may begin with a whole message
	deadline time.Time // as it is set at the socket
	clock    clock
	burst    *Burst   // only while input is served
	protocol Protocol // nil for messages behind their lengths
	got      int      // bytes of the latest read
	gotErr   error
	read     func(fd uintptr) bool
	readNow  func(fd uintptr)

	pending atomic.Int32 // pending answers, see Hold
	usedAt  atomic.Int64 // when it was last used, in Unix nanoseconds

	mu       sync.Mutex // guards all below; held during a write that does not block
	changed  sync.Cond  // signals a change of a field below, or of pending
	broken   error      // why no more bytes can be sent
	stopping bool       // Close of the Streams has been called
	unsent   []byte     // bytes that the kernel has not accepted
	flushing bool       // catchUp is running
	answered time.Time  // when the latest pending answer was sent
	out      []byte     // input of tryWrite
	sent     int        // result of tryWrite
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
		return nil, fmt.Errorf("fastpath: peer %v is not a TCP address", tcp.RemoteAddr())
	}
	peer := remote.AddrPort()
	c := &Conn{group: g, tcp: tcp, raw: raw, peer: netip.AddrPortFrom(peer.Addr().Unmap(), peer.Port())}
	c.changed.L = &c.mu
	c.usedAt.Store(time.Now().UnixNano())
	// Made once, because a closure for each call would be an allocation.
	c.read, c.readNow, c.write = c.tryRead, func(fd uintptr) { c.tryRead(fd) }, c.tryWrite
	if config := g.config.Load(); config != nil {
		c.tls = newTLSLayer(c, config)
	}
	return c, nil
}

// ConnectionState returns the state of TLS, or nil over plain TCP.
func (c *Conn) ConnectionState() *tls.ConnectionState {
	if c.tls == nil {
		return nil
	}
	state := c.tls.ConnectionState()
	return &state
}

// used implements occupant.
func (c *Conn) used() (busy bool, at int64) { return c.pending.Load() > 0, c.usedAt.Load() }

// Peer returns the address of the client.
func (c *Conn) Peer() netip.AddrPort { return c.peer }

// LocalAddr returns the address that the client has connected to.
func (c *Conn) LocalAddr() net.Addr { return c.tcp.LocalAddr() }

// RemoteAddr returns the address of the client as a *net.TCPAddr.
func (c *Conn) RemoteAddr() net.Addr { return c.tcp.RemoteAddr() }

// Handler returns the current handler of the Streams, which is the latest of
// Swap.
func (c *Conn) Handler() StreamHandler { return c.group.handler.Load().StreamHandler }

// Hold announces a reply that will be sent later. Until Done is called, the
// connection stays open, even if the client has closed its side.
func (c *Conn) Hold() { c.pending.Add(1) }

// Done ends a Hold.
func (c *Conn) Done() {
	c.pending.Add(-1)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.answered = time.Now()
	c.changed.Broadcast()
}

// Busy reports whether MaxPending answers are pending.
func (c *Conn) Busy() bool { return c.pending.Load() >= MaxPending }

// Send sends a message. It does not wait for the client: bytes that the kernel
// does not accept are kept. It fails if the connection has ended or the client
// is too slow. It is safe for concurrent use.
func (c *Conn) Send(p []byte) error {
	if len(p) > MaxMessage {
		return fmt.Errorf("fastpath: a message of %d bytes is too long, the limit is %d", len(p), MaxMessage)
	}
	frame := binary.BigEndian.AppendUint16(make([]byte, 0, lengthLen+len(p)), uint16(len(p)))
	return c.send(append(frame, p...))
}

// SendBytes sends bytes of a Protocol, as Send does with a message.
func (c *Conn) SendBytes(p []byte) error { return c.send(p) }

// SendAll sends a message and waits until the kernel has accepted all bytes. It
// fails if the client exceeds the write timeout.
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

// serveConn serves the connection until it ends.
func (c *Conn) serveConn() {
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

// receive reads input into a burst, and waits for it if there is none. It
// returns false at the end of the connection.
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

// await waits for input and reads it, into a burst or into the buffer of the
// TLS layer. It fails with os.ErrDeadlineExceeded if the connection must end.
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

// expired reports whether err is due to a deadline.
func (c *Conn) expired(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }

// begin makes a burst of the kept input, and returns the room for more.
func (c *Conn) begin() []byte {
	c.burst, _ = bursts.Get().(*Burst)
	return c.burst.start(c.kept)
}

// tryRead reads from the socket. The runtime calls it when there may be input,
// and again if it returns false.
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
		return // the deadline is in the past already
	}
	if c.answered.After(c.clock.active) {
		c.clock.active = c.answered
	}
	end := c.clock.end(limits)
	if c.pending.Load() > 0 {
		end = time.Now().Add(limits.Idle)
	}
	// A deadline that is too early is corrected when it expires, so that a
	// message does not cost a change of a timer.
	if c.deadline.IsZero() || end.Before(c.deadline) || !c.deadline.After(time.Now()) {
		c.deadline = end
		_ = c.tcp.SetReadDeadline(end)
	}
}

// ended reports whether the connection must end now that a deadline has
// expired. If not, arm sets the next deadline.
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

// last reads the input that came before Close, because it is answered too. It
// returns false if there is none.
func (c *Conn) last() bool {
	c.mu.Lock()
	stopping := c.stopping
	c.mu.Unlock()
	c.got, c.gotErr = 0, nil
	return stopping && c.raw.Control(c.readNow) == nil && c.got > 0
}

// serve passes the messages of the burst to the handler and sends the replies.
// It returns false if the connection must end.
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
			// A few bytes may request many. Replies of at most one write are
			// made before the client has read them.
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

// serveProtocol is serve for a connection with a Protocol.
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
		// As in serve, replies of at most one write are made in advance.
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

// more returns how many messages the limits still allow.
func (c *Conn) more(l StreamLimits) int {
	if l.Messages <= 0 {
		return MaxBurst
	}
	return l.Messages - c.begun
}

// keep copies input that could not be served yet. The memory is reused while
// there is such input.
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

// beyondSmall returns how many bytes of kept input count against maxHeld.
func beyondSmall(kept []byte) int64 { return int64(max(0, len(kept)-small)) }

// flush sends the replies of b.
func (c *Conn) flush(b *Burst) {
	if len(b.out) == 0 {
		return
	}
	// settle returns the error.
	_ = c.send(b.out)
	b.out = b.out[:0]
}

// behind reports whether the client has to read before more can be sent.
func (c *Conn) behind() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.flushing || c.broken != nil
}

// settle waits until the client has read the replies and the connection is not
// busy. Meanwhile nothing is read, so TCP slows the client down. It returns
// false if the connection is broken.
func (c *Conn) settle() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.broken == nil && (c.flushing || c.Busy()) {
		c.changed.Wait()
	}
	return c.broken == nil
}

// finish closes the connection after all pending answers have been sent.
func (c *Conn) finish() {
	c.mu.Lock()
	for c.broken == nil && (c.flushing || c.pending.Load() > 0) {
		c.changed.Wait()
	}
	c.mu.Unlock()
	if c.protocol != nil {
		c.announceEnd()
	}
	if c.tls != nil && c.tls.established && !c.tls.passed {
		_ = c.tls.CloseWrite() // so that the client can tell the end from a cut
	}
	c.fail(net.ErrClosed)
}

// announceEnd sends the announcement of the protocol that the connection ends.
func (c *Conn) announceEnd() {
	if p := c.protocol.GoAway(nil); len(p) > 0 {
		_ = c.send(p)
	}
}

// stop makes the connection end after the input that has come so far.
func (c *Conn) stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stopping = true
	_ = c.tcp.SetReadDeadline(expiredDeadline)
}

// fail closes the connection because of err, if it is not closed yet.
func (c *Conn) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failLocked(err)
}

// failLocked is fail. c.mu must be held.
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

// sendLocked writes p to the socket, after all bytes that were sent before.
// c.mu must be held.
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
		// The reading goroutine has not ended, because nothing is broken. Close
		// waits for it, and therefore also for this one.
		c.group.running.Go(c.catchUp)
	}
	return nil
}

// writeSome writes p as far as the kernel accepts it without blocking, and
// returns the rest. c.mu must be held.
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

// tryWrite writes to the socket. The runtime calls it once.
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

// catchUp writes unsent until it is empty, as fast as the client reads.
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

// transfer sends or receives p without blocking. It need not notify the
// scheduler, see worker.take.
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
