package flate

import (
	"bytes"
	"fmt"
	"io"
	"testing"
)

// decodeSymbols decodes from a bit offset, and passes the history at the end or
// after a number of pieces. It returns the output, and whether the decoder
// switched to bytes before that.
func decodeSymbols(data []byte, bits int64, history []byte, pieces int) (out []byte, saw bool, err error) {
	in := NewInput(bytes.NewReader(data[bits/8:]))
	b := NewSymbolDecoder()
	b.Reset(in, uint(bits%8))
	var t Table
	t.Fill(history)
	for b.ByteDecoder() == nil {
		if pieces == 0 {
			b.Resolve(&t)
			break
		}
		pieces--
		var p []byte
		p, err = b.Next()
		out = append(out, t.Resolve(bytes.Clone(p))...)
		if err != nil {
			if err == io.EOF {
				err = nil
			}
			return out, false, err
		}
		saw = b.ByteDecoder() != nil
	}
	rest, err := io.ReadAll(b.ByteDecoder())
	return append(out, rest...), saw, err
}

// TestSymbolDecoder decodes from every block of a stream.
func TestSymbolDecoder(t *testing.T) {
	sawOnce := false
	for seed := range uint64(60) {
		s := generate(rng(seed), 4000)
		for _, m := range s.blocks {
			if m.Out < history {
				continue
			}
			past := s.want[m.Out-history : m.Out]
			for _, pieces := range []int{0, 1, 3, 1 << 20} {
				got, saw, err := decodeSymbols(s.data, m.Bits, past, pieces)
				if err != nil || !bytes.Equal(got, s.want[m.Out:]) {
					t.Fatalf("seed %d, block at %d, %d pieces: %d bytes, %v; want %d", seed, m.Bits, pieces, len(got), err, len(s.want)-int(m.Out))
				}
				sawOnce = sawOnce || saw
			}
		}
	}
	if !sawOnce {
		t.Error("the history was never free of markers")
	}
}

// TestStopAt stops at every block.
func TestStopAt(t *testing.T) {
	for seed := range uint64(40) {
		s := generate(rng(seed), 1000)
		d := NewDecoder(NewInput(bytes.NewReader(s.data)))
		var got []byte
		for _, m := range s.blocks[1:] {
			d.StopAt(m.Bits - int64(seed%2))
			for {
				p, err := d.Next()
				got = append(got, p...)
				if err == ErrStopped && d.Bits() == m.Bits && int64(len(got)) == m.Out {
					break
				}
				if err != nil {
					t.Fatalf("seed %d: %v at %d for %d; want %+v", seed, err, d.Bits(), len(got), m)
				}
			}
			if !bytes.Equal(d.History(), s.want[max(0, m.Out-history):m.Out]) {
				t.Fatalf("seed %d: history at %d", seed, m.Bits)
			}
		}
		d.StopAt(1 << 60)
		rest, err := io.ReadAll(d)
		if err != nil || !bytes.Equal(append(got, rest...), s.want) {
			t.Fatalf("seed %d: %d bytes, %v", seed, len(got)+len(rest), err)
		}
	}
}

// TestFind checks that Find finds the blocks of real streams with few false
// matches.
func TestFind(t *testing.T) {
	f := NewFinder()
	for name, data := range corpus(t) {
		var buf bytes.Buffer
		w := newWriter(t, &buf)
		w.Write(data)
		w.Close()
		p := buf.Bytes()
		blocks := map[int]bool{}
		d := NewDecoder(NewInput(bytes.NewReader(p)))
		d.Watch(func(m Mark) { blocks[int(m.Bits)] = true })
		if _, err := io.Copy(io.Discard, d); err != nil {
			t.Fatal(err)
		}
		right, wrong := 0, 0
		for at := f.Find(p, 0); at >= 0; at = f.Find(p, at+1) {
			if blocks[at] {
				right++
			} else {
				wrong++
			}
		}
		dynamic := 0
		for at := range blocks {
			if at/8+Tail < len(p) && bitsAt(p, at, 3) == 4 {
				dynamic++
			}
		}
		if right != dynamic || wrong > 2 {
			t.Errorf("%s: found %d of %d blocks, and %d false matches", name, right, dynamic, wrong)
		}
	}
}

func bitsAt(p []byte, at, n int) int {
	v := 0
	for i := range n {
		v |= int(p[(at+i)/8]>>((at+i)%8)&1) << i
	}
	return v
}

// FuzzSymbolDecoder compares the output with a Decoder.
func FuzzSymbolDecoder(f *testing.F) {
	for seed := range uint64(8) {
		f.Add(generate(rng(seed), 300).data, uint8(seed))
	}
	past := bytes.Repeat([]byte("what came before. "), history/18+1)[:history]
	f.Fuzz(func(t *testing.T, data []byte, pieces uint8) {
		const most = 1 << 22
		d := NewDecoder(NewInput(nil))
		d.ResetAt(NewInput(bytes.NewReader(data)), 0, past)
		want, werr := io.ReadAll(io.LimitReader(d, most))
		if len(want) == most {
			return
		}
		eachLoop(func() {
			got, _, err := decodeSymbols(data, 0, past, int(pieces))
			if fmt.Sprint(err) != fmt.Sprint(werr) || !bytes.Equal(got, want) {
				t.Fatalf("%d bytes, %v; want %d, %v", len(got), err, len(want), werr)
			}
		})
	})
}
