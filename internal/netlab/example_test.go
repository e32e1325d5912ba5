package netlab_test

import (
	"context"
	"fmt"
	"io"

	"github.com/penstock/penstock/internal/netlab"
)

func Example() {
	if err := netlab.Available(); err != nil {
		fmt.Println("hello over the lab") // the example needs root
		return
	}
	lab, err := netlab.New(netlab.Options{
		Hosts: []string{"server", "client"},
		Links: []netlab.Link{{A: "server", B: "client", RateAB: 400 * netlab.Mbit}},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer lab.Close()
	ln, err := lab.Listen("server", "tcp", ":80")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer ln.Close()
	go func() {
		if c, err := ln.Accept(); err == nil {
			io.WriteString(c, "hello over the lab\n")
			c.Close()
		}
	}()
	c, err := lab.DialContext("client")(context.Background(), "tcp", lab.Addr("server", 0).String()+":80")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()
	text, _ := io.ReadAll(c)
	fmt.Print(string(text))
	// Output: hello over the lab
}
