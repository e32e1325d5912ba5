package stargz_test

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"strings"

	"github.com/containerd/stargz-snapshotter/estargz"

	"github.com/penstock/penstock/soci/internal/inflate"
	"github.com/penstock/penstock/soci/internal/inflate/stargz"
)

// The table of contents of an eStargz layer tells where its members begin.
func ExampleIndex() {
	var files bytes.Buffer
	tw := tar.NewWriter(&files)
	for _, name := range []string{"a", "b", "c"} {
		tw.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: 9000})
		io.WriteString(tw, strings.Repeat(name, 9000))
	}
	tw.Close()
	layer, err := estargz.Build(io.NewSectionReader(bytes.NewReader(files.Bytes()), 0, int64(files.Len())))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer layer.Close()
	blob, err := io.ReadAll(layer)
	if err != nil {
		fmt.Println(err)
		return
	}

	x, err := stargz.Index(bytes.NewReader(blob), int64(len(blob)))
	if err != nil {
		fmt.Println(err)
		return
	}
	r, err := inflate.NewReader(bytes.NewReader(blob), inflate.Options{Index: x, Workers: 2})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer r.Close()
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if err != nil {
			break
		}
		if h.Size == 9000 {
			fmt.Println(h.Name, h.Size)
		}
	}
	// Output:
	// a 9000
	// b 9000
	// c 9000
}
