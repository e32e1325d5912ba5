package flate_test

import (
	"bytes"
	stdflate "compress/flate"
	"fmt"
	"io"

	"github.com/penstock/penstock/soci/internal/inflate/flate"
)

func ExampleDecoder() {
	var buf bytes.Buffer
	w, _ := stdflate.NewWriter(&buf, stdflate.BestCompression)
	io.WriteString(w, "a tar stream")
	w.Close()
	buf.WriteString("the next bytes")

	in := flate.NewInput(&buf)
	d := flate.NewDecoder(in)
	for {
		p, err := d.Next()
		if err != nil {
			fmt.Println(err)
			break
		}
		fmt.Printf("%s\n", p)
	}
	fmt.Printf("%s\n", in.Peek(14))
	// Output:
	// a tar stream
	// EOF
	// the next bytes
}
