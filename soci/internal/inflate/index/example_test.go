package index_test

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"fmt"
	"io"
	"strings"

	"github.com/penstock/penstock/soci/internal/inflate"
	"github.com/penstock/penstock/soci/internal/inflate/index"
)

// A layer is decoded once, and then on all cores with the index.
func ExampleRecorder() {
	tar := strings.Repeat("the files of a layer, one behind the other\n", 100_000)
	var blob bytes.Buffer
	w := gzip.NewWriter(&blob)
	io.WriteString(w, tar)
	w.Close()

	rec := index.NewRecorder(1 << 20)
	r, err := inflate.NewReader(bytes.NewReader(blob.Bytes()), inflate.Options{Record: rec})
	if err != nil {
		fmt.Println(err)
		return
	}
	io.Copy(io.Discard, r)
	r.Close()
	x, err := rec.Index(index.Blob{
		Digest: fmt.Sprintf("sha256:%x", sha256.Sum256(blob.Bytes())), Size: int64(blob.Len()),
		DiffID: fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(tar))), Out: int64(len(tar)),
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	var file bytes.Buffer
	fmt.Println("saved:", x.Save(&file))

	x, err = index.Load(&file)
	if err != nil {
		fmt.Println(err)
		return
	}
	r, err = inflate.NewReader(bytes.NewReader(blob.Bytes()), inflate.Options{Index: x, Workers: 2})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer r.Close()
	got, err := io.ReadAll(r)
	fmt.Println("equal:", string(got) == tar, err)
	fmt.Println("index wrong:", r.IndexWrong())
	// Output:
	// saved: <nil>
	// equal: true <nil>
	// index wrong: false
}
