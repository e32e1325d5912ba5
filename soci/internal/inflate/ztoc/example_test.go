package ztoc_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"fmt"
	"io"

	"github.com/penstock/penstock/soci/internal/inflate"
	"github.com/penstock/penstock/soci/internal/inflate/index"
	"github.com/penstock/penstock/soci/internal/inflate/ztoc"
)

// One pass over a layer yields the index that the tools of SOCI read.
func ExampleNew() {
	var layer, blob bytes.Buffer
	tw := tar.NewWriter(&layer)
	tw.WriteHeader(&tar.Header{Name: "app/main.py", Mode: 0o644, Size: 12})
	io.WriteString(tw, "print('hi')\n")
	tw.Close()
	zw := gzip.NewWriter(&blob)
	zw.Write(layer.Bytes())
	zw.Close()

	rec := index.NewRecorder(0)
	r, err := inflate.NewReader(bytes.NewReader(blob.Bytes()), inflate.Options{Record: rec})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer r.Close()
	files, err := ztoc.Files(r)
	if err != nil {
		fmt.Println(err)
		return
	}
	x, err := rec.Index(index.Blob{
		Digest: fmt.Sprintf("sha256:%x", sha256.Sum256(blob.Bytes())), Size: int64(blob.Len()),
		DiffID: fmt.Sprintf("sha256:%x", sha256.Sum256(layer.Bytes())), Out: int64(layer.Len()),
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	z, err := ztoc.New(x, bytes.NewReader(blob.Bytes()))
	if err != nil {
		fmt.Println(err)
		return
	}
	z.Files = files
	if _, err := z.Marshal(ztoc.V2); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(z.Files[0].Name, z.Files[0].Size, "bytes;", len(z.Index.Points), "checkpoint")
	// Output: app/main.py 12 bytes; 1 checkpoint
}
