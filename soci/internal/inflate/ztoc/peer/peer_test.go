//go:build cgo

package peer

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	soci "github.com/awslabs/soci-snapshotter/ztoc"

	"github.com/penstock/penstock/soci/internal/inflate"
	"github.com/penstock/penstock/soci/internal/inflate/index"
	"github.com/penstock/penstock/soci/internal/inflate/ztoc"
)

// blobEnv names a gzip layer that replaces the generated one.
const blobEnv = "PENSTOCK_PEER_LAYER"

// span is the default of SOCI.
const span = 4 << 20 // bytes

// TestSOCIReads checks that SOCI's own reader accepts our zTOC of a recorded
// index, lists the files as we do, and extracts their content.
func TestSOCIReads(t *testing.T) {
	blob := layer(t)
	for name, v := range map[string]ztoc.Version{"version 1": ztoc.V1, "version 2": ztoc.V2} {
		t.Run(name, func(t *testing.T) { read(t, blob, v) })
	}
}

func read(t *testing.T, blob []byte, v ztoc.Version) {
	rec := index.NewRecorder(span)
	r, err := inflate.NewReader(bytes.NewReader(blob), inflate.Options{Record: rec})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var content bytes.Buffer
	if _, err := io.Copy(&content, r); err != nil {
		t.Fatal(err)
	}
	x, err := rec.Index(index.Blob{Size: int64(len(blob)), Out: int64(content.Len())})
	if err != nil {
		t.Fatal(err)
	}
	ours, err := ztoc.New(x, bytes.NewReader(blob))
	if err != nil {
		t.Fatal(err)
	}
	if ours.Files, err = ztoc.Files(bytes.NewReader(content.Bytes())); err != nil {
		t.Fatal(err)
	}
	data, err := ours.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := soci.Unmarshal(bytes.NewReader(data))
	if err != nil {
		t.Fatal("SOCI refuses it: ", err)
	}
	info, err := theirs.Zinfo()
	if err != nil {
		t.Fatal("SOCI refuses the checkpoints: ", err)
	}
	defer info.Close()
	if int(info.MaxSpanID()) != len(x.Points)-1 || len(theirs.FileMetadata) != len(ours.Files) {
		t.Fatalf("SOCI sees %d spans and %d files, we %d and %d", info.MaxSpanID()+1, len(theirs.FileMetadata), len(x.Points), len(ours.Files))
	}
	section := io.NewSectionReader(bytes.NewReader(blob), 0, int64(len(blob)))
	files, size := 0, 0
	for tr, i := tar.NewReader(&content), 0; ; i++ {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		m := theirs.FileMetadata[i]
		if m.Name != h.Name || int64(m.UncompressedSize) != h.Size || m.Mode != h.Mode || m.Linkname != h.Linkname || !m.ModTime.Equal(h.ModTime) || m.UID != h.Uid {
			t.Fatalf("SOCI sees %+v, the tar has %+v", m, h)
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		want, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		got, err := theirs.ExtractFile(section, h.Name)
		if err != nil || !bytes.Equal(got, want) {
			t.Fatalf("%s: SOCI extracts %d bytes, %v; the tar has %d", h.Name, len(got), err, len(want))
		}
		files, size = files+1, size+len(got)
	}
	t.Logf("%d bytes of zTOC, %d spans; %d files of %d bytes extracted", len(data), info.MaxSpanID()+1, files, size)
}

// layer returns 24 MiB of tar with files that span checkpoints, or reads a
// layer.
func layer(t *testing.T) []byte {
	t.Helper()
	if path := os.Getenv(blobEnv); path != "" {
		blob, err := os.ReadFile(filepath.Clean(path))
		if err != nil {
			t.Fatal(err)
		}
		return blob
	}
	r := rand.New(rand.NewPCG(1, 2))
	var blob bytes.Buffer
	z := gzip.NewWriter(&blob)
	w := tar.NewWriter(z)
	text := func(n int) []byte {
		p := make([]byte, 0, n+20)
		for len(p) < n {
			p = fmt.Appendf(p, "%x line %d\n", r.Uint64N(1000), r.IntN(50))
		}
		return p[:n]
	}
	for i, n := range []int{0, 1, 100, 5000, 700_000, 9 << 20, 3 << 20, 12, 11 << 20} {
		if err := w.WriteHeader(&tar.Header{Name: fmt.Sprint("dir/file-", i), Mode: 0o640, Uid: i, Size: int64(n), Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(text(n)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.WriteHeader(&tar.Header{Name: "dir/link", Linkname: "file-3", Typeflag: tar.TypeSymlink}); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	return blob.Bytes()
}
