package nic_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"

	"github.com/penstock/penstock/internal/nic"
)

func Example() {
	server := httptest.NewServer(http.NotFoundHandler())
	defer server.Close()
	d, err := nic.New(nic.Options{Locals: []string{"127.0.0.1"}})
	if err != nil {
		fmt.Println(err)
		return
	}
	tr := &http.Transport{DialContext: d.DialContext}
	defer tr.CloseIdleConnections()
	resp, err := (&http.Client{Transport: tr}).Get(server.URL)
	if err != nil {
		fmt.Println(err)
		return
	}
	io.Copy(io.Discard, resp.Body) // so that the connection is kept
	resp.Body.Close()
	fmt.Println(resp.Status)
	for _, s := range d.Stats() {
		fmt.Println(s.Local, s.Active)
	}
	// Output:
	// 404 Not Found
	// 127.0.0.1 1
}
