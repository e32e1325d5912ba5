package tarfile_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/penstock/penstock/soci/internal/tarfile"
	"github.com/penstock/penstock/soci/internal/tarfile/tartest"
)

// goldens returns archives that GNU tar wrote.
func goldens(t testing.TB) map[string][]byte {
	t.Helper()
	out := make(map[string][]byte)
	names, err := filepath.Glob(filepath.Join("testdata", "*.tar.gz"))
	if err != nil || len(names) == 0 {
		t.Fatal("no archives in testdata: ", err)
	}
	for _, name := range names {
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		z, err := gzip.NewReader(f)
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(z)
		if err = errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
		out[filepath.Base(name)] = data
	}
	return out
}

// archiveOf returns an archive that archive/tar wrote.
func archiveOf(t testing.TB, headers ...*tar.Header) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, h := range headers {
		body := strings.Repeat("x", int(h.Size))
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// dialects returns an archive for each feature of the dialects.
func dialects(t testing.TB) map[string][]byte {
	file := tartest.File("f", "x")
	raw := map[string]string{
		"version 7":       tartest.Block(tarfile.TypeFileV7, "f", "x").V7().With("x"),
		"old directory":   tartest.Block(tarfile.TypeFileV7, "d/", "").V7().With(""),
		"contiguous":      tartest.Block(tarfile.TypeContiguous, "f", "x").With("x"),
		"dump directory":  tartest.Block(tarfile.TypeGNUDumpDir, "d", "Yf\x00\x00").GNU().With("Yf\x00\x00"),
		"prefix":          tartest.Block(tarfile.TypeFile, "f", "x").Put(tartest.PrefixOff, "a/b").With("x"),
		"prefix of star":  tartest.Block(tarfile.TypeFile, "f", "x").Put(tartest.PrefixOff, "a").Put(tartest.PrefixOff+tartest.StarPrefix, "01234567012 ").Put(tartest.StarOff, "tar\x00").With("x"),
		"prefix of Go":    tartest.Block(tarfile.TypeFile, "f", "x").GNU().Put(tartest.PrefixOff, "a/bcd").With("x"),
		"times of GNU":    tartest.Block(tarfile.TypeFile, "f", "x").GNU().Put(tartest.PrefixOff, "01234567012\x0001234567012\x00").With("x"),
		"base 256":        tartest.Block(tarfile.TypeFile, "f", "").Put(tartest.SizeOff, tartest.Base256(tartest.SizeLen, 1)).With("x"),
		"link with size":  tartest.Block(tarfile.TypeSymlink, "l", "12345").Put(tartest.LinkOff, "x").With("") + file,
		"records":         tartest.Records(tarfile.TypePax, "path", "name", "linkpath", "l", "size", "1", "uid", "3", "gid", "4", "mtime", "-1.25", "atime", "7.5") + file,
		"attributes":      tartest.Records(tarfile.TypePax, "SCHILY.xattr.user.a", "b", "SCHILY.xattr.user.a%3Db", "c") + file,
		"global records":  tartest.Records(tarfile.TypePaxGlobal, "mtime", "12.5", "comment", "c") + file,
		"malformed":       tartest.Pax(tarfile.TypePax, "999 path=x\n") + file,
		"long names":      tartest.LongName(tarfile.TypeGNUName, strings.Repeat("n", 150)) + tartest.LongName(tarfile.TypeGNULink, strings.Repeat("l", 160)) + tartest.Block(tarfile.TypeSymlink, "short", "").GNU().With(""),
		"old sparse":      tartest.OldSparse("s", "abcd", 10, 2, 2, 6, 2),
		"sparse map":      tartest.Records(tarfile.TypePax, "GNU.sparse.size", "10", "GNU.sparse.map", "2,2,6,2") + tartest.File("s", "abcd"),
		"sparse offsets":  tartest.Records(tarfile.TypePax, "GNU.sparse.size", "10", "GNU.sparse.offset", "2", "GNU.sparse.numbytes", "4") + tartest.File("s", "abcd"),
		"sparse 1.0":      tartest.Sparse1("s", "2\n2\n2\n6\n2\n", "abcd", "10"),
		"empty":           "",
		"no last padding": file[:tarfile.BlockSize+1],
		"two archives":    file + tartest.End[:tarfile.BlockSize] + file,
	}
	out := map[string][]byte{
		"written": archiveOf(
			t,
			&tar.Header{Name: "d/", Typeflag: tar.TypeDir, Mode: 0o755, ModTime: time.Unix(12, 500_000_000), Format: tar.FormatPAX},
			&tar.Header{Name: strings.Repeat("n", 200), Typeflag: tar.TypeReg, Size: 1, Uid: 3_000_000, Format: tar.FormatGNU},
			&tar.Header{Name: "h", Typeflag: tar.TypeLink, Linkname: "d/f"},
			&tar.Header{Name: "c", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3},
		),
	}
	for name, data := range raw {
		out[name] = []byte(data + tartest.End)
	}
	out["cut"] = []byte(file + file[:300])
	return out
}

// TestReaderAgreesOnDialects compares the reader with archive/tar on every
// dialect. Package untar has the same test for its corpus of hostile archives.
func TestReaderAgreesOnDialects(t *testing.T) {
	for name, data := range goldens(t) {
		t.Run(name, func(t *testing.T) { tartest.Agree(t, data) })
	}
	for name, data := range dialects(t) {
		t.Run(name, func(t *testing.T) { tartest.Agree(t, data) })
	}
}

// FuzzReader checks that no input makes the reader panic, loop, or disagree
// with archive/tar about an archive that both accept.
func FuzzReader(f *testing.F) {
	for _, data := range goldens(f) {
		f.Add(data)
	}
	for _, data := range dialects(f) {
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		tartest.Agree(t, data)
		tartest.Agree(t, withChecksums(data)) // without this, a mutated header would rarely pass the checksum
	})
}

// withChecksums returns data with the checksum of a header in every block.
func withChecksums(data []byte) []byte {
	data = bytes.Clone(data)
	zeros := make([]byte, tarfile.BlockSize)
	for b := data; len(b) >= tarfile.BlockSize; b = b[tarfile.BlockSize:] {
		if !bytes.Equal(b[:tarfile.BlockSize], zeros) {
			tartest.Sign(b)
		}
	}
	return data
}

// TestReaderAllocations checks that a header allocates its strings and nothing
// else.
func TestReaderAllocations(t *testing.T) {
	var headers []*tar.Header
	for i := range 1000 {
		headers = append(headers, &tar.Header{Name: fmt.Sprint("directory/file-", i), Typeflag: tar.TypeReg, Format: tar.FormatUSTAR, ModTime: time.Unix(1, 0)})
	}
	data := archiveOf(t, headers...)
	got := testing.AllocsPerRun(5, func() {
		if n, err := tartest.CountEntries(t.Context(), data); err != nil || n != len(headers) {
			t.Fatal(n, err)
		}
	})
	if most := 1100.0; got > most {
		t.Errorf("%v allocations for 1000 entries, at most %v expected", got, most)
	}
}

// TestAttributesAreLinear checks that an extended header allocates a few times
// its bytes, however many attributes it has. (With a search and a copy for each
// of them, 40,000 attributes took ten seconds.)
func TestAttributesAreLinear(t *testing.T) {
	for _, c := range []struct {
		name       string
		headers, n int
		want       error
	}{
		{"40,000 attributes", 1, 40_000, tarfile.ErrLimit},
		{"as many as Linux can list", 1, 5900, nil},
		{"10 MB of headers", 60, 5900, nil},
	} {
		data := []byte(tartest.AttributeHeaders(c.headers, c.n))
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		entries, err := tartest.CountEntries(t.Context(), data)
		runtime.ReadMemStats(&after)
		if !errors.Is(err, c.want) || err == nil && entries != c.headers {
			t.Errorf("%s: %d entries, %v", c.name, entries, err)
		}
		// The bound allows for the stream and its copy, the text of a header
		// twice, and a growing list of attributes with a map.
		if got, most := after.TotalAlloc-before.TotalAlloc, uint64(20*len(data)); got > most {
			t.Errorf("%s: %d bytes allocated for an archive of %d", c.name, got, len(data))
		}
	}
}

// blockFunc is a BlockReader.
type blockFunc func() (tarfile.Block, error)

func (f blockFunc) NextBlock(context.Context) (tarfile.Block, error) { return f() }

// TestStreamErrorsPassUnchanged checks that an error of the stream, or of
// BeforeWait, ends the read unchanged.
func TestStreamErrorsPassUnchanged(t *testing.T) {
	broken := errors.New("broken")
	src := blockFunc(func() (tarfile.Block, error) { return tarfile.Block{}, broken })
	if _, err := tarfile.NewReader(src, tarfile.Options{}).Next(t.Context()); err != broken {
		t.Errorf("error of the stream: %v", err)
	}
	r := tarfile.NewReader(&tartest.Blocks{Data: []byte(tartest.End), Size: 100}, tarfile.Options{BeforeWait: func() error { return broken }})
	if _, err := r.Next(t.Context()); err != broken {
		t.Errorf("error of BeforeWait: %v", err)
	}
}

// TestSparseMapIsCharged checks that the map of a sparse file is charged while
// its entry is current, and that a refusal ends the read.
func TestSparseMapIsCharged(t *testing.T) {
	data := []byte(tartest.Sparse1("s", "2\n2\n2\n6\n2\n", "abcd", "10") + tartest.File("f", "x") + tartest.End)
	var now, most int64
	r := tarfile.NewReader(&tartest.Blocks{Data: data, Size: len(data)}, tarfile.Options{Charge: func(delta int64) error {
		now += delta
		most = max(most, now)
		return nil
	}})
	defer r.Close()
	for range 2 {
		if _, err := r.Next(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if now != 0 || most != 32 {
		t.Errorf("%d bytes are still charged, the peak was %d; want 0 and 32", now, most)
	}
	full := errors.New("full")
	r = tarfile.NewReader(&tartest.Blocks{Data: data, Size: len(data)}, tarfile.Options{Charge: func(int64) error { return full }})
	defer r.Close()
	if _, err := r.Next(t.Context()); !errors.Is(err, full) {
		t.Errorf("after a refused charge: %v", err)
	}
}
