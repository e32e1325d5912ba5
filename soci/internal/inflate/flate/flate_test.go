package flate

import (
	"bytes"
	stdflate "compress/flate"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	kflate "github.com/klauspost/compress/flate"
)

// result is the outcome of decoding.
type result struct {
	out  []byte
	end  string // the kind of the final error
	used int64  // consumed bytes of the source, if it ended well
}

// kind maps the errors of the two decoders to comparable text.
func kind(err error) string {
	var corrupt stdflate.CorruptInputError
	switch {
	case err == nil, err == io.EOF:
		return "end"
	case errors.Is(err, io.ErrUnexpectedEOF):
		return "cut"
	case errors.Is(err, ErrCorrupt), errors.As(err, &corrupt):
		return "corrupt"
	}
	return err.Error()
}

func decodeStd(data []byte, most int64) result {
	src := bytes.NewReader(data)
	out, err := io.ReadAll(io.LimitReader(stdflate.NewReader(src), most))
	res := result{out: out, end: kind(err)}
	if err == nil && int64(len(out)) < most {
		res.used = int64(len(data) - src.Len())
	}
	return res
}

func decodeOurs(src io.Reader, most int64) result {
	in := NewInput(src)
	out, err := io.ReadAll(io.LimitReader(NewDecoder(in), most))
	res := result{out: out, end: kind(err)}
	if err == nil && int64(len(out)) < most {
		res.used = in.Offset()
	}
	return res
}

const noLimit = 1 << 40

// sameAsStd compares the outcome with compress/flate. It returns false if they
// differ.
func sameAsStd(t *testing.T, what string, data []byte, src io.Reader, most int64) bool {
	t.Helper()
	want, got := decodeStd(data, most), decodeOurs(src, most)
	if want.end == got.end && want.used == got.used && bytes.Equal(want.out, got.out) {
		return true
	}
	n := 0
	for n < min(len(want.out), len(got.out)) && want.out[n] == got.out[n] {
		n++
	}
	t.Errorf("%s: %d bytes, %s, %d used; compress/flate: %d bytes, %s, %d used; the same up to %d",
		what, len(got.out), got.end, got.used, len(want.out), want.end, want.used, n)
	return false
}

func rng(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 4)) }

// chunks returns its data in pieces of random length, sometimes with the error.
type chunks struct {
	r    *rand.Rand
	data []byte
}

func (c *chunks) Read(p []byte) (int, error) {
	n := copy(p[:min(len(p), c.r.IntN(100))], c.data)
	c.data = c.data[n:]
	if len(c.data) == 0 && (n == 0 || c.r.IntN(2) == 0) {
		return n, io.EOF
	}
	return n, nil
}

// TestGenerated decodes streams with all features of the format.
func TestGenerated(t *testing.T) {
	for seed := range uint64(200) {
		size := []int{3, 40, 400, 4000}[seed%4]
		s := generate(rng(seed), size)
		data := append(bytes.Clone(s.data), "behind"...)
		sources := []io.Reader{bytes.NewReader(data), iotest.DataErrReader(bytes.NewReader(data)), &chunks{rng(seed), data}}
		if size <= 400 {
			sources = append(sources, iotest.OneByteReader(bytes.NewReader(data)))
		}
		for i, src := range sources {
			got := decodeOurs(src, noLimit)
			if got.end != "end" || got.used != int64(len(s.data)) || !bytes.Equal(got.out, s.want) {
				t.Fatalf("seed %d source %d: %d bytes, %s, %d used; want %d, end, %d",
					seed, i, len(got.out), got.end, got.used, len(s.want), len(s.data))
			}
		}
		if !sameAsStd(t, "seed", data, bytes.NewReader(data), noLimit) {
			t.Fatal(seed)
		}
	}
}

// TestTruncated cuts streams at every byte.
func TestTruncated(t *testing.T) {
	for seed := range uint64(20) {
		s := generate(rng(seed), 60)
		for n := range min(len(s.data), 1500) {
			if !sameAsStd(t, "cut", s.data[:n], bytes.NewReader(s.data[:n]), noLimit) {
				t.Fatal(seed, n)
			}
		}
	}
}

// TestDamaged flips bits in the codes and elsewhere.
func TestDamaged(t *testing.T) {
	for seed := range uint64(1000) {
		r := rng(seed)
		s := generate(r, []int{10, 100, 1000}[seed%3])
		for range 1 + r.IntN(3) {
			most := len(s.data)
			if r.IntN(2) == 0 {
				most = min(most, 100)
			}
			s.data[r.IntN(most)] ^= 1 << r.IntN(8)
		}
		if !sameAsStd(t, "damaged", s.data, bytes.NewReader(s.data), 1<<20) {
			t.Fatal(seed)
		}
	}
}

// TestUnusualCodes decodes blocks with invalid and unusual code lengths.
func TestUnusualCodes(t *testing.T) {
	for seed := range uint64(1500) {
		r := rng(seed)
		lit, dist := make([]uint8, 257+r.IntN(30)), make([]uint8, 1+r.IntN(30))
		if r.IntN(4) > 0 {
			lit[endBlock] = uint8(1 + r.IntN(3))
		}
		for range r.IntN(6) {
			lit[r.IntN(len(lit))] = uint8(r.IntN(4))
			dist[r.IntN(len(dist))] = uint8(r.IntN(3))
		}
		w := new(bitWriter)
		w.bits(5, 3)
		w.lengths(r, lit, dist)
		for range 20 {
			w.bits(r.IntN(256), 8)
		}
		w.align(0)
		if !sameAsStd(t, "codes", w.b, bytes.NewReader(w.b), 1<<20) {
			t.Fatal(seed)
		}
	}
}

// corpus returns real input: sources and a program.
func corpus(t testing.TB) map[string][]byte {
	t.Helper()
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Skip("needs the go command: ", err)
	}
	files := map[string][]byte{"zeros": make([]byte, 2<<20), "nothing": nil}
	for _, name := range []string{"src/net/http/server.go", "bin/gofmt"} {
		data, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(root)), name))
		if err == nil {
			files[name] = data
		}
	}
	return files
}

// TestEncoders decodes real files compressed by several encoders.
func TestEncoders(t *testing.T) {
	for name, data := range corpus(t) {
		for level := -2; level <= 9; level++ {
			for _, encoder := range []struct {
				name string
				w    func(io.Writer, int) (io.WriteCloser, error)
			}{
				{"compress/flate", func(w io.Writer, l int) (io.WriteCloser, error) { return stdflate.NewWriter(w, l) }},
				{"klauspost", func(w io.Writer, l int) (io.WriteCloser, error) { return kflate.NewWriter(w, l) }},
			} {
				var buf bytes.Buffer
				w, err := encoder.w(&buf, level)
				if err != nil {
					t.Fatal(err)
				}
				w.Write(data)
				w.Close()
				got := decodeOurs(bytes.NewReader(buf.Bytes()), noLimit)
				if got.end != "end" || got.used != int64(buf.Len()) || !bytes.Equal(got.out, data) {
					t.Errorf("%s by %s -%d: %d bytes, %s", name, encoder.name, level, len(got.out), got.end)
				}
			}
		}
	}
}

// TestMarks decodes from every block of a stream.
func TestMarks(t *testing.T) {
	for seed := range uint64(60) {
		s := generate(rng(seed), 1000)
		type mark struct {
			Mark
			history []byte
		}
		var marks []mark
		d := NewDecoder(NewInput(bytes.NewReader(s.data)))
		d.Watch(func(m Mark) { marks = append(marks, mark{m, bytes.Clone(m.History)}) })
		if _, err := io.Copy(io.Discard, d); err != nil {
			t.Fatal(seed, err)
		}
		d.Watch(nil)
		if len(marks) != len(s.blocks) {
			t.Fatalf("seed %d: %d marks for %d blocks", seed, len(marks), len(s.blocks))
		}
		for i, m := range marks {
			if m.Bits != s.blocks[i].Bits || m.Out != s.blocks[i].Out {
				t.Fatalf("seed %d: block %d at %d for %d; want %+v", seed, i, m.Bits, m.Out, s.blocks[i])
			}
			d.ResetAt(NewInput(bytes.NewReader(s.data[m.Bits/8:])), uint(m.Bits%8), m.history)
			got, err := io.ReadAll(d)
			if err != nil || !bytes.Equal(got, s.want[m.Out:]) {
				t.Fatalf("seed %d: from block %d: %d bytes, %v; want %d", seed, i, len(got), err, len(s.want)-int(m.Out))
			}
		}
	}
}

// TestSourceErrors checks that errors of the source pass through, after the
// output before them.
func TestSourceErrors(t *testing.T) {
	s := generate(rng(2), 4000)
	half := s.data[:len(s.data)/2]
	broken := errors.New("the network is gone")
	out, err := io.ReadAll(NewDecoder(NewInput(io.MultiReader(bytes.NewReader(half), iotest.ErrReader(broken)))))
	if want := decodeStd(half, noLimit); err != broken || !bytes.Equal(out, want.out) {
		t.Errorf("%d bytes, %v; want %d", len(out), err, len(want.out))
	}
	if _, err := io.ReadAll(NewDecoder(NewInput(silent{}))); err != io.ErrNoProgress {
		t.Error(err)
	}
}

type silent struct{}

func (silent) Read([]byte) (int, error) { return 0, nil }

// TestInputBetweenStreams reads bytes of the Input between two streams, as a
// reader of headers does.
func TestInputBetweenStreams(t *testing.T) {
	a, b := generate(rng(3), 400), generate(rng(4), 400)
	data := bytes.Join([][]byte{a.data, []byte("between"), b.data, []byte("behind")}, nil)
	in := NewInput(iotest.HalfReader(bytes.NewReader(data)))
	d := NewDecoder(in)
	if out, err := io.ReadAll(d); err != nil || !bytes.Equal(out, a.want) {
		t.Fatal(len(out), err)
	}
	if p := in.Peek(3); string(p) != "bet" {
		t.Errorf("%q", p)
	}
	in.Skip(3)
	rest := make([]byte, 4)
	if _, err := io.ReadFull(in, rest); err != nil || string(rest) != "ween" {
		t.Errorf("%q, %v", rest, err)
	}
	d.Reset(in)
	if out, err := io.ReadAll(d); err != nil || !bytes.Equal(out, b.want) {
		t.Fatal(len(out), err)
	}
	if p := in.Peek(100); string(p) != "behind" || in.Err() != io.EOF {
		t.Errorf("%q, %v", p, in.Err())
	}
}

// TestAllocations checks that decoding a stream does not allocate.
func TestAllocations(t *testing.T) {
	s := generate(rng(5), 4000)
	src := bytes.NewReader(s.data)
	in := NewInput(src)
	d := NewDecoder(in)
	n := testing.AllocsPerRun(10, func() {
		src.Reset(s.data)
		in.Reset(src)
		d.Reset(in)
		var err error
		for err == nil {
			_, err = d.Next()
		}
	})
	if n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// FuzzDecode compares the output with compress/flate.
func FuzzDecode(f *testing.F) {
	for seed := range uint64(12) {
		f.Add(generate(rng(seed), 30).data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		const most = 1 << 20
		eachLoop(func() {
			sameAsStd(t, "whole", data, bytes.NewReader(data), most)
			sameAsStd(t, "in pieces", data, &chunks{rng(uint64(len(data))), data}, most)
		})
	})
}

// FuzzGenerate decodes generated valid streams.
func FuzzGenerate(f *testing.F) {
	f.Add(uint64(1), uint16(30))
	f.Add(uint64(9), uint16(2000))
	f.Fuzz(func(t *testing.T, seed uint64, size uint16) {
		s := generate(rng(seed), int(size%5000))
		got := decodeOurs(bytes.NewReader(s.data), noLimit)
		if got.end != "end" || !bytes.Equal(got.out, s.want) {
			t.Errorf("%d bytes, %s; want %d", len(got.out), got.end, len(s.want))
		}
	})
}

// TestPrepend checks that prepended bytes are read before the rest.
func TestPrepend(t *testing.T) {
	data := bytes.Repeat([]byte("0123456789"), 20000)
	in := NewInput(bytes.NewReader(data))
	got := make([]byte, 100000)
	if _, err := io.ReadFull(in, got); err != nil {
		t.Fatal(err)
	}
	in.Prepend(got[10:70000], nil, got[70000:])
	if in.Offset() != 10 {
		t.Error(in.Offset())
	}
	in.Skip(copy(make([]byte, 3), in.Peek(3)))
	in.Prepend([]byte("012"))
	rest, err := io.ReadAll(in)
	if err != nil || !bytes.Equal(rest, data[10:]) || in.Offset() != int64(len(data)) {
		t.Errorf("%d bytes up to %d, %v", len(rest), in.Offset(), err)
	}
	in.Prepend(data[:5]) // also after the end of the source
	if rest, err := io.ReadAll(in); err != nil || string(rest) != "01234" {
		t.Errorf("%q, %v", rest, err)
	}
	in.Reset(bytes.NewReader(data[:1]))
	if p := in.Peek(2); string(p) != "0" || in.Offset() != 0 || in.Err() != io.EOF {
		t.Errorf("%q at %d, %v", p, in.Offset(), in.Err())
	}
}

// newWriter returns the encoder of the standard library at its default level.
func newWriter(t testing.TB, w io.Writer) io.WriteCloser {
	t.Helper()
	z, err := stdflate.NewWriter(w, stdflate.DefaultCompression)
	if err != nil {
		t.Fatal(err)
	}
	return z
}
