//go:build linux && (amd64 || arm64)

package fastpath_test

import (
	"fmt"
	"net"

	"github.com/penstock/penstock/dnsplugin/internal/fastpath"
)

// upper answers each packet in capitals.
type upper struct{}

func (upper) Serve(_ int, b *fastpath.Batch) bool {
	for i := range b.Len() {
		out := b.Buffer()
		for _, c := range b.Packet(i) {
			out = append(out, c-32)
		}
		b.Reply(i, len(out))
	}
	return true
}

func Example() {
	l, err := net.ListenPacket("udp", "127.0.0.1:0") // to find a free port
	if err != nil {
		fmt.Println(err)
		return
	}
	addr := l.LocalAddr().String()
	l.Close()

	g, err := fastpath.Listen(addr, fastpath.Options{Workers: 2}, upper{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer g.Close()
	c, err := net.Dial("udp", addr)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()
	_, _ = c.Write([]byte("hello"))
	buf := make([]byte, 10)
	n, err := c.Read(buf)
	fmt.Println(string(buf[:n]), err)
	// Output: HELLO <nil>
}
