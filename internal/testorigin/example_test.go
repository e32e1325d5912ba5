package testorigin_test

import (
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/penstock/penstock/internal/testorigin"
)

func Example() {
	o, err := testorigin.Start(testorigin.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer o.Close()
	_ = o.Put("weights", "model.bin", make([]byte, 1<<20))
	faults, err := testorigin.ParseFaults(`
		GetObject key=weights/* nth=1 => status code=503 retry-after=1s
		GetObject nth=2               => truncate at=64KiB
	`)
	if err != nil {
		fmt.Println(err)
		return
	}
	o.SetFaults(faults...)

	for range 3 {
		resp, err := http.Get(o.Presign("GET", "weights", "model.bin", time.Minute))
		if err != nil {
			fmt.Println(err)
			return
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode == http.StatusServiceUnavailable {
			body = nil
		}
		fmt.Println(resp.StatusCode, resp.Header.Get("Retry-After"), len(body), err)
	}
	fmt.Printf("%+v\n", o.Count("GetObject", "weights/model.bin"))
	fmt.Printf("%+v\n", o.Coverage("weights/model.bin"))
	// Output:
	// 503 1 0 <nil>
	// 200  65536 unexpected EOF
	// 200  1048576 <nil>
	// {Op:GetObject Key:weights/model.bin Requests:3 Success:2 Faults:2 Bytes:1114112 Received:0}
	// {Unique:1048576 Again:65536}
}
