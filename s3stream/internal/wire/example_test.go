package wire_test

import (
	"fmt"
	"net"
	"time"

	"github.com/penstock/penstock/s3stream/internal/wire"
)

// Both ends prove that they have the token; then frames flow.
func Example() {
	a, b := net.Pipe()
	go func() {
		c := wire.NewConn(a)
		defer c.Close()
		req, welcome, err := wire.Accept(c, "token", time.Minute)
		if err != nil || welcome() != nil {
			return
		}
		_ = c.WriteSmall(wire.Block, 7, []byte("hello "+req.Name))
	}()
	c := wire.NewConn(b)
	defer c.Close()
	if err := wire.Open(c, "token", wire.Request{Role: wire.Child, Name: "w1"}, time.Minute); err != nil {
		fmt.Println(err)
		return
	}
	h, err := c.ReadHeader()
	if err != nil {
		fmt.Println(err)
		return
	}
	p := make([]byte, h.Length)
	fmt.Println(h.Type, h.Object, c.ReadPayload(h, p), string(p))
	// Output: block 7 <nil> hello w1
}
