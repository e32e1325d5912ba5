package inflate

import (
	"bytes"
	stdgzip "compress/gzip"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/klauspost/compress/zstd"
)

// sourceText returns a large source file of the Go tree.
func sourceText(t testing.TB) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(goroot(t), "src", "net", "http", "server.go"))
	if err != nil {
		t.Skip("needs the Go source tree: ", err)
	}
	return data
}

func gz(t testing.TB, data []byte, edit func(*stdgzip.Writer)) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := stdgzip.NewWriter(&buf)
	if edit != nil {
		edit(w)
	}
	w.Write(data)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// headerCRC adds the checksum to a header.
func headerCRC(in []byte) []byte {
	out := bytes.Clone(in)
	out[3] |= 2
	end := 10
	if out[3]&4 != 0 {
		end += 2 + int(binary.LittleEndian.Uint16(out[end:]))
	}
	for _, flag := range []byte{8, 16} {
		if out[3]&flag != 0 {
			end += bytes.IndexByte(out[end:], 0) + 1
		}
	}
	sum := crc32.ChecksumIEEE(out[:end])
	return slices.Insert(out, end, byte(sum), byte(sum>>8))
}

func zs(t testing.TB, data []byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	return w.EncodeAll(data, nil)
}

func inflateAll(data []byte) ([]byte, Format, error) {
	r, err := NewReader(bytes.NewReader(data), Options{})
	if err != nil {
		return nil, None, err
	}
	defer r.Close()
	out, err := io.ReadAll(r)
	return out, r.Format(), err
}

func TestFormats(t *testing.T) {
	data := sourceText(t)
	half := len(data) / 2
	named := func(w *stdgzip.Writer) { w.Name, w.Comment, w.Extra = "layer.tar", "a comment", []byte("extra") }
	skippable := append([]byte{0x5a, 0x2a, 0x4d, 0x18, 3, 0, 0, 0}, "abc"...)
	tests := []struct {
		name   string
		in     []byte
		format Format
		want   []byte
	}{
		{"plain", data, None, data},
		{"empty", nil, None, nil},
		{"one byte", data[:1], None, data[:1]},
		{"gzip", gz(t, data, nil), Gzip, data},
		{"gzip with a full header", gz(t, data, named), Gzip, data},
		{"gzip with a header checksum", headerCRC(gz(t, data, named)), Gzip, data},
		{"gzip with a long name", gz(t, data, func(w *stdgzip.Writer) { w.Name = strings.Repeat("n", 70<<10) }), Gzip, data},
		{"gzip of nothing", gz(t, nil, nil), Gzip, nil},
		{"gzip members", slices.Concat(gz(t, data[:half], nil), gz(t, nil, named), gz(t, data[half:], named)), Gzip, data},
		{"gzip padded", append(gz(t, data, nil), make([]byte, 1000)...), Gzip, data},
		{"zstd", zs(t, data), Zstd, data},
		{"zstd frames", slices.Concat(zs(t, data[:half]), skippable, zs(t, data[half:])), Zstd, data},
		{"zstd skippable first", slices.Concat(skippable, zs(t, data)), Zstd, data},
	}
	for _, tt := range tests {
		got, format, err := inflateAll(tt.in)
		if err != nil || format != tt.format || !bytes.Equal(got, tt.want) {
			t.Errorf("%s: %d bytes of %v, %v; want %d of %v", tt.name, len(got), format, err, len(tt.want), tt.format)
		}
	}
}

func TestDamage(t *testing.T) {
	data := sourceText(t)
	whole := gz(t, data, nil)
	flip := func(in []byte, at int) []byte {
		out := bytes.Clone(in)
		out[at] ^= 0x10
		return out
	}
	reserved := bytes.Clone(whole)
	reserved[3] |= 0x80
	z := zs(t, data)
	tests := map[string][]byte{
		"gzip cut":              whole[:len(whole)/2],
		"gzip cut in trailer":   whole[:len(whole)-3],
		"gzip wrong CRC":        flip(whole, len(whole)-6),
		"gzip wrong length":     flip(whole, len(whole)-1),
		"gzip header only":      whole[:10],
		"gzip magic only":       whole[:2],
		"gzip method":           flip(whole, 2),
		"gzip reserved flags":   reserved,
		"gzip header checksum":  flip(headerCRC(whole), 10),
		"gzip cut in checksum":  headerCRC(whole)[:11],
		"gzip trailing garbage": append(bytes.Clone(whole), "garbage"...),
		"gzip second cut":       append(bytes.Clone(whole), whole[:20]...),
		"gzip after padding":    slices.Concat(whole, make([]byte, 8), whole),
		"zstd cut":              z[:len(z)/2],
		"zstd flipped":          flip(z, len(z)/2),
		"zstd trailing garbage": append(bytes.Clone(z), "garbage"...),
	}
	for name, in := range tests {
		if _, _, err := inflateAll(in); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSourceError(t *testing.T) {
	broken := errors.New("the network is gone")
	for _, whole := range [][]byte{gz(t, sourceText(t), nil), zs(t, sourceText(t)), sourceText(t)} {
		r, err := NewReader(io.MultiReader(bytes.NewReader(whole[:len(whole)/2]), iotest.ErrReader(broken)), Options{})
		if err == nil {
			_, err = io.Copy(io.Discard, r)
			r.Close()
		}
		if !errors.Is(err, broken) || errors.Is(err, ErrCorrupt) {
			t.Error(err)
		}
	}
}

// TestFinalErrorRepeats checks that a Reader repeats its final error.
func TestFinalErrorRepeats(t *testing.T) {
	whole := gz(t, []byte("layer"), nil)
	for _, in := range [][]byte{whole, whole[:len(whole)-1], append(bytes.Clone(whole), whole[len(whole)-8:]...)} {
		r, err := NewReader(bytes.NewReader(in), Options{})
		if err != nil {
			t.Fatal(err)
		}
		_, first := io.Copy(io.Discard, r)
		for range 3 {
			if n, err := r.Read(make([]byte, 10)); n != 0 || err != first && (first != nil || err != io.EOF) {
				t.Errorf("%d bytes, %v after %v", n, err, first)
			}
		}
		r.Close()
	}
}

// FuzzGzip checks that the output, and the presence of an error, match
// compress/gzip, with the exceptions in the code below.
func FuzzGzip(f *testing.F) {
	small := []byte("hello, hello, hello, layer")
	f.Add(gz(f, small, nil))
	f.Add(append(gz(f, small, nil), gz(f, small, nil)...))
	f.Add(append(gz(f, small, nil), 0, 0, 0))
	f.Add(gz(f, small, func(w *stdgzip.Writer) { w.Name, w.Comment, w.Extra = "name", "comment", small }))
	f.Fuzz(func(t *testing.T, in []byte) {
		const most = 1 << 20
		if detectFormat(in) != Gzip {
			return
		}
		var want []byte
		z, werr := stdgzip.NewReader(bytes.NewReader(in))
		if werr == nil {
			want, werr = io.ReadAll(io.LimitReader(z, most))
		}
		var got []byte
		r, gerr := NewReader(bytes.NewReader(in), Options{})
		if gerr == nil {
			got, gerr = io.ReadAll(io.LimitReader(r, most))
			r.Close()
		}
		switch {
		case errors.Is(gerr, errReserved):
			// RFC 1952 section 2.3.1.2 requires an error, but compress/gzip
			// does not return one.
		case errors.Is(werr, stdgzip.ErrHeader), werr != nil && in[len(in)-1] == 0:
			// Zeros may follow the last member, and names may have any length.
			if !bytes.HasPrefix(got, want) {
				t.Fatalf("compress/gzip: %d bytes, %v; here: %d bytes, %v", len(want), werr, len(got), gerr)
			}
		case (werr == nil) != (gerr == nil) || !bytes.Equal(got, want):
			t.Fatalf("compress/gzip: %d bytes, %v; here: %d bytes, %v", len(want), werr, len(got), gerr)
		}
	})
}

// goroot returns the root of the Go tree, from the go command.
func goroot(t testing.TB) string {
	t.Helper()
	out, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Skip("needs the go command: ", err)
	}
	return strings.TrimSpace(string(out))
}
