package ztoc

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"testing"
	"time"

	fbs "github.com/awslabs/soci-snapshotter/ztoc/fbs/ztoc"
	"github.com/opencontainers/go-digest"

	"github.com/penstock/penstock/soci/internal/inflate"
	"github.com/penstock/penstock/soci/internal/inflate/index"
)

// makeLayer returns a tar of real files and its compressed blob.
func makeLayer(t testing.TB) (blob, content []byte) {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	names, err := filepath.Glob(filepath.Join(runtime.GOROOT(), "src", "net", "http", "*.go"))
	if err != nil || len(names) == 0 {
		t.Skip("needs the Go source tree: ", err)
	}
	when := time.Unix(1_700_000_000, 5).UTC()
	add := func(h tar.Header, data []byte) {
		h.Size, h.ModTime, h.Format = int64(len(data)), when, tar.FormatPAX
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(data); err != nil {
			t.Fatal(err)
		}
	}
	add(tar.Header{Name: "src/", Typeflag: tar.TypeDir, Mode: 0o755, Uname: "root"}, nil)
	for _, name := range names[:20] {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		add(tar.Header{Name: "src/" + filepath.Base(name), Typeflag: tar.TypeReg, Mode: 0o644, Uid: 7, PAXRecords: map[string]string{"SCHILY.xattr.user.a": "b"}}, data)
	}
	add(tar.Header{Name: "src/link", Typeflag: tar.TypeSymlink, Linkname: "server.go"}, nil)
	add(tar.Header{Name: "null", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3}, nil)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	var z bytes.Buffer
	zw := gzip.NewWriter(&z)
	_, _ = zw.Write(b.Bytes())
	if err := zw.Close(); err != nil {
		t.Fatal(err)
	}
	return z.Bytes(), b.Bytes()
}

// recordedZtoc returns the zTOC of a recorded index.
func recordedZtoc(t testing.TB, blob, content []byte, span int64) *Ztoc {
	t.Helper()
	rec := index.NewRecorder(span)
	r, err := inflate.NewReader(bytes.NewReader(blob), inflate.Options{Record: rec})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	n, err := io.Copy(io.Discard, r)
	if err != nil {
		t.Fatal(err)
	}
	x, err := rec.Index(index.Blob{Size: int64(len(blob)), Out: n})
	if err != nil {
		t.Fatal(err)
	}
	z, err := New(x, bytes.NewReader(blob))
	if err != nil {
		t.Fatal(err)
	}
	if z.Files, err = Files(bytes.NewReader(content)); err != nil {
		t.Fatal(err)
	}
	return z
}

func TestMarshalRoundTrip(t *testing.T) {
	blob, content := makeLayer(t)
	z := recordedZtoc(t, blob, content, 100<<10)
	for _, v := range []Version{V1, V2} {
		data, err := z.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		got, err := parse(data)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got.Files, z.Files) {
			t.Errorf("%d: %d files, want %d, or not the same", v, len(got.Files), len(z.Files))
		}
		if got.Size != z.Size || got.Out != z.Out || got.SpanSize != z.SpanSize || !reflect.DeepEqual(got.SpanDigests, z.SpanDigests) || len(got.Index.Points) != len(z.Index.Points) {
			t.Errorf("%d: not the same: %d points, want %d", v, len(got.Index.Points), len(z.Index.Points))
		}
		for i, p := range got.Index.Points {
			if w := z.Index.Points[i]; p.Bits != w.Bits || p.Out != w.Out || !bytes.Equal(p.Window.Append(nil), w.Window.Append(nil)) {
				t.Errorf("%d: point %d at bit %d, byte %d; want %d, %d", v, i, p.Bits, p.Out, w.Bits, w.Out)
			}
		}
		r, err := inflate.NewReader(bytes.NewReader(blob), inflate.Options{Index: got.Index, Workers: 3})
		if err != nil {
			t.Fatal(err)
		}
		out, err := io.ReadAll(r)
		r.Close()
		if err != nil || !bytes.Equal(out, content) {
			t.Errorf("%d: decoded %d bytes, %v; want %d", v, len(out), err, len(content))
		}
	}
}

// TestNearMembersAreLeftOut checks that only some of the members that are close
// together become checkpoints, and that no span is too long.
func TestNearMembersAreLeftOut(t *testing.T) {
	x := &index.Index{Blob: index.Blob{Size: 100 << 10, Out: 100 << 20}}
	for i := range int64(100) {
		x.Points = append(x.Points, index.Point{Kind: index.Member, Bits: i << 13, Out: i << 20, Header: 10})
	}
	z, err := New(x, bytes.NewReader(make([]byte, 100<<10)))
	if err != nil {
		t.Fatal(err)
	}
	points := append(z.Index.Points, index.Point{Out: x.Out})
	if len(points) != 14 { // and the end
		t.Errorf("%d checkpoints", len(points)-1)
	}
	for i, p := range points[1:] {
		if span := p.Out - points[i].Out; span > z.SpanSize {
			t.Errorf("span %d has %d bytes", i, span)
		}
	}
}

// TestAccessors reads a zTOC with SOCI's own package, as its snapshotter does.
func TestAccessors(t *testing.T) {
	blob, content := makeLayer(t)
	z := recordedZtoc(t, blob, content, 100<<10)
	data, err := z.Marshal(V2)
	if err != nil {
		t.Fatal(err)
	}
	root := fbs.GetRootAsZtoc(data, 0)
	info, toc := root.CompressionInfo(nil), root.Toc(nil)
	if string(root.Version()) != "0.9" || root.CompressedArchiveSize() != int64(len(blob)) || root.UncompressedArchiveSize() != int64(len(content)) ||
		info.CompressionAlgorithm() != fbs.CompressionAlgorithmGzip || int(info.MaxSpanId()) != len(z.Index.Points)-1 {
		t.Errorf("version %s, sizes %d and %d, spans to %d", root.Version(), root.CompressedArchiveSize(), root.UncompressedArchiveSize(), info.MaxSpanId())
	}
	points := z.Index.Points
	for i, p := range points {
		end := int64(len(blob))
		if i+1 < len(points) {
			end = (points[i+1].Bits + 7) / 8
		}
		if want := digest.FromBytes(blob[p.Bits/8 : end]); string(info.SpanDigests(i)) != want.String() {
			t.Errorf("span %d: %s, want %s", i, info.SpanDigests(i), want)
		}
	}
	if n := len(info.CheckpointsBytes()); n != blobHeader+len(points)*checkpoint {
		t.Errorf("%d bytes of checkpoints of %d spans", n, len(points))
	}
	// The snapshotter needs the headers in order, and finds each file in the
	// tar.
	next := int64(0)
	var e fbs.FileMetadata
	for i := range toc.MetadataLength() {
		toc.Metadata(&e, i)
		if e.UncompressedOffset() < next {
			t.Errorf("%s at %d, before %d", e.Name(), e.UncompressedOffset(), next)
		}
		next = e.UncompressedOffset() + e.UncompressedSize()
		if err := new(time.Time).UnmarshalText(e.ModTime()); err != nil {
			t.Error(err)
		}
	}
	if toc.MetadataLength() != 23 || next > int64(len(content)) {
		t.Errorf("%d files up to %d", toc.MetadataLength(), next)
	}
}

// TestVersion1Header checks that version 1 is refused unless the header of the
// first member has the least length, because version 1 does not store the start
// of the first block.
func TestVersion1Header(t *testing.T) {
	blob, content := makeLayer(t)
	z := recordedZtoc(t, blob, content, 1<<20)
	z.Index.Points[0].Bits += 8
	if _, err := z.Marshal(V1); err == nil {
		t.Error("Marshal accepted a header of 11 bytes in version 1")
	}
}
