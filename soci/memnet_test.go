package soci_test

import (
	"context"
	"net"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/penstock/penstock/internal/testorigin"
	"github.com/penstock/penstock/soci"
)

// memNet is a network in memory, for fake time: a goroutine that waits for a
// socket of the kernel would keep the time of a synctest bubble from advancing.
type memNet struct {
	mu        sync.Mutex
	listeners map[string]*memListener // by port
}

// Listen is for testorigin.Options.
func (n *memNet) Listen(context.Context, string, string) (net.Listener, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	l := &memListener{port: 1000 + len(n.listeners), conns: make(chan net.Conn), closed: make(chan struct{})}
	n.listeners[strconv.Itoa(l.port)] = l
	return l, nil
}

// Dial is for soci.Options. Every name resolves to this machine.
func (n *memNet) Dial(ctx context.Context, _, address string) (net.Conn, error) {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	l := n.listeners[port]
	n.mu.Unlock()
	if l == nil {
		return nil, net.UnknownNetworkError(address)
	}
	near, far := net.Pipe()
	select {
	case l.conns <- far:
		return near, nil
	case <-l.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

type memListener struct {
	port   int
	conns  chan net.Conn
	once   sync.Once
	closed chan struct{}
}

func (l *memListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *memListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *memListener) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: l.port} }

// inBubble runs a test in fake time, with a registry that has the medium image
// as go/tree:1, and a Puller for it.
func inBubble(t *testing.T, opts testorigin.Options, test func(t *testing.T, o *testorigin.Origin, ref string, p *soci.Puller)) {
	layers := medium() // outside of the bubble, because it runs the go command
	synctest.Test(t, func(t *testing.T) {
		n := &memNet{listeners: make(map[string]*memListener)}
		opts.Listen = n.Listen
		o := origin(t, opts)
		if _, err := o.PutImage("go/tree", "1", digest.SHA256, ocispec.Platform{OS: "linux", Architecture: runtime.GOARCH}, layers...); err != nil {
			t.Fatal(err)
		}
		test(t, o, o.Host()+"/go/tree:1", puller(t, func(o *soci.Options) { o.DialContext = n.Dial }))
	})
}
