package inflate

import (
	"bytes"
	stdgzip "compress/gzip"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	kgzip "github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/penstock/penstock/soci/internal/inflate/index"
)

// longEnv names a folder with *.tar files. `go test -run TestLong -timeout 2h`
// then compresses each with every available encoder and decodes it in every
// way.
const longEnv = "PENSTOCK_LONG_LAYERS"

// slowMost is the part of a file that encoders compress which make less than 1
// MB/s.
const slowMost = 12 << 20 // bytes

// longEncoders returns the ways to make a gzip file, by name.
func longEncoders() map[string]func(io.Writer, []byte) error {
	program := func(most int, argv ...string) func(io.Writer, []byte) error {
		return func(w io.Writer, data []byte) error {
			if _, err := exec.LookPath(argv[0]); err != nil {
				return err
			}
			cmd := exec.Command(argv[0], argv[1:]...)
			cmd.Stdin, cmd.Stdout = bytes.NewReader(data[:min(len(data), most)]), w
			return cmd.Run()
		}
	}
	all := map[string]func(io.Writer, []byte) error{
		"zopfli": func(w io.Writer, data []byte) error { return zopfli(w, data[:min(len(data), slowMost)]) },
		"7z -9":  program(slowMost, "7z", "a", "-tgzip", "-mx=9", "-si", "-so", "-bd", "x"),
	}
	const whole = 1 << 62
	for _, level := range []string{"-1", "-6", "-9"} {
		all["gzip "+level] = program(whole, "gzip", level, "-c")
		all["pigz "+level] = program(whole, "pigz", level, "-c")
	}
	all["pigz -i"] = program(whole, "pigz", "-i", "-c")
	for _, level := range []int{1, 6, 9} {
		all[fmt.Sprint("compress/gzip ", level)] = func(w io.Writer, data []byte) error {
			z, err := stdgzip.NewWriterLevel(w, level)
			if err != nil {
				return err
			}
			z.Write(data)
			return z.Close()
		}
		all[fmt.Sprint("klauspost ", level)] = func(w io.Writer, data []byte) error {
			z, err := kgzip.NewWriterLevel(w, level)
			if err != nil {
				return err
			}
			z.Write(data)
			return z.Close()
		}
	}
	return all
}

// zopfli runs the zopfli program, which reads only files.
func zopfli(w io.Writer, data []byte) error {
	dir, err := os.MkdirTemp("", "penstock-long-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	name := filepath.Join(dir, "x")
	if err := os.WriteFile(name, data, 0o600); err != nil {
		return err
	}
	cmd := exec.Command("zopfli", "--i1", "-c", name)
	cmd.Stdout = w
	return cmd.Run()
}

// TestLong decodes gigabytes of real layers, compressed by real encoders.
func TestLong(t *testing.T) {
	dir := os.Getenv(longEnv)
	if dir == "" {
		t.Skip("needs a folder of tar files in " + longEnv)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.tar"))
	if err != nil || len(files) == 0 {
		t.Fatal("no *.tar in "+dir, err)
	}
	total := map[string]int64{}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for name, encoder := range longEncoders() {
			var blob bytes.Buffer
			if err := encoder(&blob, data); err != nil {
				t.Logf("%s without %s: %v", filepath.Base(file), name, err)
				continue
			}
			z, err := kgzip.NewReader(bytes.NewReader(blob.Bytes()))
			if err != nil {
				t.Fatal(err)
			}
			h := sha256.New()
			n, err := io.Copy(h, z)
			if err != nil {
				t.Fatal(err)
			}
			rec, again := index.NewRecorder(0), index.NewRecorder(0)
			for _, way := range []struct {
				name string
				opts func() Options
			}{
				{"serial, recording", func() Options { return Options{Record: rec} }},
				{"2 workers", func() Options { return Options{Workers: 2} }},
				{"5 workers, recording", func() Options { return Options{Workers: 5, Record: again} }},
				{"2 workers, by the index", func() Options { return Options{Workers: 2, Index: longIndex(t, rec, n)} }},
				{"5 workers, by the index of 5", func() Options { return Options{Workers: 5, Index: longIndex(t, again, n)} }},
			} {
				if err := longDecode(blob.Bytes(), way.opts(), n, [sha256.Size]byte(h.Sum(nil))); err != nil {
					t.Errorf("%s of %s, %s: %v", filepath.Base(file), name, way.name, err)
				}
				total[way.name] += n
			}
		}
		longFrames(t, filepath.Base(file), data, total)
		t.Logf("%s: so far, bytes of tar: %v", filepath.Base(file), total)
	}
}

// longFrames decodes the file from zstd frames as zstd:chunked, pzstd and zstd
// make them.
func longFrames(t *testing.T, file string, data []byte, total map[string]int64) {
	t.Helper()
	program := func(argv ...string) func(io.Writer) error {
		return func(w io.Writer) error {
			cmd := exec.Command(argv[0], argv[1:]...)
			cmd.Stdin, cmd.Stdout = bytes.NewReader(data), w
			return cmd.Run()
		}
	}
	want := sha256.Sum256(data)
	for name, encode := range map[string]func(io.Writer) error{
		"frames of 1 MiB": func(w io.Writer) error {
			for rest := data; len(rest) > 0; {
				n := min(len(rest), 1<<20)
				if err := zstdFrame(w, rest[:n]); err != nil {
					return err
				}
				rest = rest[n:]
			}
			return nil
		},
		"pzstd": program("pzstd", "-q", "-c", "-"),
		"zstd":  program("zstd", "-q", "-c"),
	} {
		var blob bytes.Buffer
		if err := encode(&blob); err != nil {
			t.Logf("%s without %s: %v", file, name, err)
			continue
		}
		for _, workers := range []int{0, 2, 5} {
			if err := longDecode(blob.Bytes(), Options{Workers: workers}, int64(len(data)), want); err != nil {
				t.Errorf("%s of %s, %d workers: %v", file, name, workers, err)
			}
			total[fmt.Sprintf("zstd, %d workers", workers)] += int64(len(data))
		}
	}
}

// zstdFrame writes data as one frame.
func zstdFrame(w io.Writer, data []byte) error {
	z, err := zstd.NewWriter(w, zstd.WithEncoderConcurrency(1))
	if err != nil {
		return err
	}
	_, err = z.Write(data)
	return errors.Join(err, z.Close())
}

func longIndex(t *testing.T, rec *index.Recorder, n int64) *index.Index {
	x, err := rec.Index(index.Blob{Out: n})
	if err != nil {
		t.Fatal(err)
	}
	return x
}

func longDecode(blob []byte, opts Options, size int64, want [sha256.Size]byte) error {
	r, err := NewReader(bytes.NewReader(blob), opts)
	if err != nil {
		return err
	}
	defer r.Close()
	h := sha256.New()
	n, err := io.Copy(h, r)
	if r.IndexWrong() {
		return errors.New("the index was dropped")
	}
	if err != nil || n != size || [sha256.Size]byte(h.Sum(nil)) != want {
		return fmt.Errorf("%d of %d bytes, %x instead of %x, %w", n, size, h.Sum(nil), want, err)
	}
	return nil
}
