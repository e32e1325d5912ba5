//go:build linux && (amd64 || arm64)

package fastpath_test

import (
	"fmt"
	"net"
	"time"

	"github.com/penstock/penstock/dnsplugin/internal/fastpath"
)

// ServeStream answers each message in capitals.
func (upper) ServeStream(_ *fastpath.Conn, b *fastpath.Burst) (served int) {
	for ; served < b.Len() && !b.Full(); served++ {
		out := b.Buffer()
		for _, c := range b.Message(served) {
			out = append(out, c-32)
		}
		b.Reply(len(out))
	}
	return served
}

func ExampleListenStreams() {
	l, err := net.Listen("tcp", "127.0.0.1:0") // to find a free port
	if err != nil {
		fmt.Println(err)
		return
	}
	addr := l.Addr().String()
	l.Close()

	limits := fastpath.StreamLimits{Read: 3 * time.Second, Idle: 10 * time.Second, Write: 5 * time.Second}
	g, err := fastpath.ListenStreams(addr, fastpath.StreamOptions{Listeners: 2, Unsteered: true, Limits: limits}, upper{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer g.Close()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()
	_, _ = c.Write([]byte("\x00\x05hello\x00\x03you"))
	buf := make([]byte, 100)
	n, err := c.Read(buf)
	fmt.Printf("%q %v\n", buf[:n], err)
	// Output: "\x00\x05HELLO\x00\x03YOU" <nil>
}
