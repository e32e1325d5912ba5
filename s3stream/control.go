package s3stream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

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
	Members []memberMsg    `json:"members"` // of node 1, 2, ...
	shape   topology.Shape // parsed
}

type memberMsg struct {
	Name string `json:"name"`
	Addr string `json:"addr"`
}

type objectsMsg struct {
	Objects []Object `json:"objects"`
}

// statusMsg is how far a worker is; the last one travels as Finished.
type statusMsg struct {
	Bytes   int64         `json:"bytes"`   // delivered to its output
	Objects int64         `json:"objects"` // complete and verified
	Hash    string        `json:"hash,omitempty"`
	Elapsed time.Duration `json:"elapsed,omitempty"`
	Repairs int           `json:"repairs,omitempty"`
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
	case s.Objects < 0 || s.Objects > MaxObjects:
		err = fmt.Errorf("it announces %d objects", s.Objects)
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

// maxPending bounds the connections that have not yet proven themselves.
const maxPending = 256

// handshakeTimeout bounds a handshake, and how long a peer's listener may hold
// a connection before it begins.
const handshakeTimeout = 10 * time.Second

// acceptLoop serves connections until ctx ends, which also closes l. handle
// owns the connection and runs in its own goroutine, counted by wg.
func acceptLoop(ctx context.Context, l net.Listener, token string, log *slog.Logger, wg *sync.WaitGroup,
	handle func(conn *wire.Conn, req wire.Request, welcome func() error),
) {
	unhook := context.AfterFunc(ctx, func() { l.Close() })
	defer unhook()
	pending := make(chan struct{}, maxPending)
	for {
		select {
		case pending <- struct{}{}:
		case <-ctx.Done():
			return
		}
		nc, err := l.Accept()
		if err != nil {
			<-pending
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return
			}
			// Out of file descriptors, most likely: others must close first.
			log.Warn("accept failed", "error", err)
			select {
			case <-time.After(acceptPause):
			case <-ctx.Done():
			}
			continue
		}
		wg.Go(func() {
			conn := wire.NewConn(nc)
			unhook := context.AfterFunc(ctx, func() { conn.Close() })
			defer unhook()
			req, welcome, err := wire.Accept(conn, token, handshakeTimeout)
			<-pending
			if err != nil {
				if ctx.Err() == nil {
					log.Warn("peer turned away", "peer", conn.Remote(), "error", plain(err))
				}
				conn.Close()
				return
			}
			handle(conn, req, welcome)
		})
	}
}

// acceptPause is long enough not to spin and short enough not to be noticed.
const acceptPause = 50 * time.Millisecond

// dial connects to a peer and passes the handshake.
func dial(ctx context.Context, addr, token string, req wire.Request, timeout time.Duration) (*wire.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var d net.Dialer
	nc, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	conn := wire.NewConn(nc)
	unhook := context.AfterFunc(ctx, func() { conn.Close() })
	err = wire.Open(conn, token, req, timeout)
	if !unhook() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		conn.Close()
		return nil, fromWire(err)
	}
	return conn, nil
}
