package inflate_test

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"

	"github.com/penstock/penstock/soci/internal/inflate"
)

func ExampleNewReader() {
	var blob bytes.Buffer
	w := gzip.NewWriter(&blob)
	io.WriteString(w, "a tar stream")
	w.Close()

	r, err := inflate.NewReader(&blob, inflate.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer r.Close()
	data, err := io.ReadAll(r)
	fmt.Printf("%v: %s (%v)\n", r.Format(), data, err)
	// Output: gzip: a tar stream (<nil>)
}
