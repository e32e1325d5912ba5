package s3stream

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/penstock/penstock/internal/printable"
	"github.com/penstock/penstock/internal/ranges"
	"github.com/penstock/penstock/s3stream/internal/topology"
	"github.com/penstock/penstock/s3stream/internal/wire"
)

// The JSON documents of the control connection.

// startMsg opens the job for one worker. The manifest's objects follow in
// objectsMsg frames.
type startMsg struct {
	Job        string        `json:"job"`
	Epoch      uint32        `json:"epoch"`
	Node       uint32        `json:"node"` // the receiver's number
	BlockBytes int64         `json:"blockBytes"`
	Objects    int           `json:"objects"`
	Bytes      int64         `json:"bytes"`
	Stall      time.Duration `json:"stall"`
	Shape      string        `json:"shape"`
	// Report is how many items may pass between two reports upstream: an eighth
	// of the smallest ring of the job. A parent may so believe that a child and
	// its children are up to a quarter of a ring behind where they are; it never
	// waits for news that will not come.
	Report  uint64         `json:"report"`
	Digest  string         `json:"digest,omitempty"` // LeaderOptions.Digest
	Members []memberMsg    `json:"members"`          // of node 1, 2, ...
	shape   topology.Shape // parsed
}

type memberMsg struct {
	Name string `json:"name"`
	Addr string `json:"addr"`
}

type objectsMsg struct {
	Objects []objectMsg `json:"objects"`
}

// objectMsg carries a key and a name as bytes where they are not UTF-8: a JSON string would replace such bytes, and S3
// takes any in a key.
type objectMsg struct {
	Object
	KeyBytes  []byte `json:"keyBytes,omitempty"`
	NameBytes []byte `json:"nameBytes,omitempty"`
}

func newObjectMsg(o Object) objectMsg {
	m := objectMsg{Object: o}
	if !utf8.ValidString(o.Key) {
		m.Key, m.KeyBytes = "", []byte(o.Key)
	}
	if !utf8.ValidString(o.Name) {
		m.Name, m.NameBytes = "", []byte(o.Name)
	}
	return m
}

func (m *objectMsg) object() Object {
	o := m.Object
	if len(m.KeyBytes) > 0 {
		o.Key = string(m.KeyBytes)
	}
	if len(m.NameBytes) > 0 {
		o.Name = string(m.NameBytes)
	}
	return o
}

// statusMsg is how far a worker is; the last one travels as Finished.
type statusMsg struct {
	Bytes   int64         `json:"bytes"`   // delivered to its output
	Objects int64         `json:"objects"` // complete and verified
	Hash    string        `json:"hash,omitempty"`
	Elapsed time.Duration `json:"elapsed,omitempty"`
	Repairs int           `json:"repairs,omitempty"`
	// Elsewhere says that the worker receives from another node than its planned parent.
	Elsewhere bool `json:"elsewhere,omitempty"`
	// Trouble holds the errors of the last repairs, at most maxTrouble: which node could not be reached, or failed.
	Trouble []string `json:"trouble,omitempty"`
}

// maxTrouble bounds statusMsg.Trouble: a worker has few parents, and the first failures explain the others.
const maxTrouble = 4

// check says what is wrong with a status, whose text goes into errors and reports.
func (s *statusMsg) check() error {
	if b, err := hex.DecodeString(s.Hash); err != nil || len(b) != 0 && len(b) != sha256.Size {
		return fmt.Errorf("%w: a status whose hash is not one", wire.ErrHeader)
	}
	for i := range s.Trouble {
		s.Trouble[i] = printable.Line(s.Trouble[i], maxReason)
	}
	return nil
}

type detachedMsg struct {
	Node   int    `json:"node"`
	Reason string `json:"reason"`
}

// MaxWorkers of one job: the leader keeps a control connection to each, and
// all their addresses must fit one control frame.
const MaxWorkers = 8192

// check says what is wrong with a start message.
func (s *startMsg) check() (err error) {
	switch {
	case s.Job == "":
		err = errors.New("it has no job number")
	case len(s.Members) == 0 || len(s.Members) > MaxWorkers:
		err = fmt.Errorf("it lists %d workers", len(s.Members))
	case s.Node == 0 || int(s.Node) > len(s.Members):
		err = fmt.Errorf("it calls us number %d of %d", s.Node, len(s.Members))
	case s.Objects < 1 || s.Objects > MaxObjects:
		err = fmt.Errorf("it announces %d objects", s.Objects)
	case s.Digest != "" && s.Digest != DigestSHA256:
		err = fmt.Errorf("it wants digests %q, which this version does not know", s.Digest)
	case s.Report < 1:
		err = errors.New("it has no report interval")
	case s.Stall < minStall || s.Stall > maxStall:
		err = fmt.Errorf("its stall timeout is %v", s.Stall)
	}
	if err == nil {
		s.shape, err = topology.ParseShape(s.Shape)
	}
	if err != nil {
		return fmt.Errorf("unusable start message: %w", err)
	}
	return nil
}

const (
	// handshakeTimeout bounds a handshake of ours with a peer, whose listener may be busy.
	handshakeTimeout = 10 * time.Second
	// proofTimeout is how long a peer of ours may take to prove itself. It needs one round trip.
	proofTimeout = 2 * time.Second
)

// acceptor runs the handshakes of a listener.
type acceptor struct {
	token string
	log   *slog.Logger
	// handle owns a connection whose peer has proven itself.
	handle func(conn *wire.Conn, req wire.Request, welcome func() error)

	began time.Time

	mu       sync.Mutex // guards what follows
	unproven unproven
	conns    map[uint64]net.Conn // by their numbers in unproven
	away     ranges.RetryLog     // peers turned away: anybody can make any number of them
}

// acceptLoop serves connections until ctx ends, which also closes l. handle owns the connection and runs in its own
// goroutine, counted by wg.
func acceptLoop(ctx context.Context, l net.Listener, token string, log *slog.Logger, wg *sync.WaitGroup,
	handle func(conn *wire.Conn, req wire.Request, welcome func() error),
) {
	unhook := context.AfterFunc(ctx, func() { l.Close() })
	defer unhook()
	a := &acceptor{token: token, log: log, handle: handle, began: time.Now(), conns: make(map[uint64]net.Conn)}
	for {
		nc, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return
			}
			log.Warn("accept failed", "err", err)
			a.makeRoom() // out of descriptors, most likely
			select {
			case <-time.After(acceptPause):
			case <-ctx.Done():
			}
			continue
		}
		id := a.add(nc)
		wg.Go(func() {
			defer a.remove(id)
			err := contain(func() error { a.serve(ctx, id, nc); return nil })
			if err != nil {
				nc.Close()
				log.Error("a peer's connection failed", "peer", nc.RemoteAddr().String(), "err", err)
			}
		})
	}
}

func (a *acceptor) serve(ctx context.Context, id uint64, nc net.Conn) {
	conn := wire.NewConn(nc)
	unhook := context.AfterFunc(ctx, func() { conn.Close() })
	defer unhook()
	req, welcome, err := wire.Accept(conn, a.token, proofTimeout)
	if evicted := !a.remove(id); evicted && err != nil {
		err = errCrowded
	}
	if err != nil {
		conn.Close()
		if ctx.Err() == nil {
			a.turnedAway(time.Since(a.began), conn.Remote(), plain(err))
		}
		return
	}
	a.handle(conn, req, welcome)
}

// errCrowded is why a connection was closed to make room for another.
var errCrowded = errors.New("it had said nothing yet, and its place was needed for another connection")

// turnedAway logs that a peer was turned away: the first at once, then one in a while with the number of the others.
func (a *acceptor) turnedAway(now time.Duration, peer string, err error) {
	a.log.Debug("peer turned away", "peer", peer, "err", err)
	a.mu.Lock()
	others, due := a.away.Due(now)
	a.mu.Unlock()
	if due {
		a.log.Warn("peer turned away", "peer", peer, "err", err, "others", others)
	}
}

func (a *acceptor) add(nc net.Conn) uint64 {
	host, _, err := net.SplitHostPort(nc.RemoteAddr().String())
	if err != nil {
		host = nc.RemoteAddr().String()
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	id, evicted := a.unproven.add(host)
	a.conns[id] = nc
	a.closeLocked(evicted)
	return id
}

// remove forgets an unproven connection; false if it was forgotten before.
func (a *acceptor) remove(id uint64) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.unproven.remove(id)
	_, known := a.conns[id]
	delete(a.conns, id)
	return known
}

func (a *acceptor) makeRoom() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.closeLocked(a.unproven.oldest())
}

// closeLocked closes an evicted connection; its goroutine then ends. mu must be held.
func (a *acceptor) closeLocked(id uint64) {
	if nc := a.conns[id]; nc != nil {
		nc.Close()
		delete(a.conns, id)
	}
}

// acceptPause is long enough not to spin and short enough not to be noticed.
const acceptPause = 50 * time.Millisecond

// errNoHandshake is a listener that accepts a connection and then does not speak the protocol.
var errNoHandshake = errors.New("it accepts the connection and does not answer: another program listens there, or the node is overloaded")

// dialTimeout bounds the connecting of a node to its parent, in a job with the stall timeout: a third of it, so that a
// blocked port costs less than a silent node, and at most 3 s, within which TCP asks twice.
func dialTimeout(stall time.Duration) time.Duration { return min(3*time.Second, stall/3) }

// dial connects to a peer within the first timeout and passes the handshake within the second.
func dial(ctx context.Context, addr, token string, req wire.Request, connect, timeout time.Duration) (*wire.Conn, error) {
	d := net.Dialer{Timeout: connect}
	nc, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	caller := ctx
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	conn := wire.NewConn(nc)
	unhook := context.AfterFunc(ctx, func() { conn.Close() })
	err = wire.Open(conn, token, req, timeout)
	if !unhook() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		conn.Close()
		if caller.Err() == nil && (ctx.Err() != nil || errors.Is(err, os.ErrDeadlineExceeded)) {
			err = fmt.Errorf("%w (waited %v)", errNoHandshake, timeout)
		}
		return nil, fromWire(err)
	}
	return conn, nil
}
