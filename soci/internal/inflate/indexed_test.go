package inflate

import (
	"bytes"
	stdgzip "compress/gzip"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/iotest"

	"go.uber.org/goleak"

	"github.com/penstock/penstock/soci/internal/inflate/flate"
	"github.com/penstock/penstock/soci/internal/inflate/index"
)

// record decodes blob and returns its index, saved to a file and loaded again.
func record(t testing.TB, blob []byte, span int64) *index.Index {
	t.Helper()
	rec := index.NewRecorder(span)
	r, err := NewReader(bytes.NewReader(blob), Options{Record: rec, Workers: 2})
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
	var file bytes.Buffer
	if err := x.Save(&file); err != nil {
		t.Fatal(err)
	}
	if x, err = index.Load(&file); err != nil {
		t.Fatal(err)
	}
	return x
}

// readBy decodes by an index and also returns the counts of the indexed
// decoder.
func readBy(in io.Reader, x *index.Index, workers int, most int64) ([]byte, indexedStats, error) {
	r, err := NewReader(in, Options{Index: x, Workers: workers})
	if err != nil {
		return nil, indexedStats{}, err
	}
	idx := r.Reader.(*members).idx
	out, err := io.ReadAll(io.LimitReader(r, most))
	r.Close()
	if idx == nil {
		return out, indexedStats{}, err
	}
	return out, idx.stats, err
}

// makeLayer returns a blob with small blocks and several megabytes of output.
func makeLayer(t testing.TB, r *rand.Rand) (blob, want []byte) {
	want = mixedContent(t, r, 3<<20)
	return encode(t, want, stdEncoder(6), 40<<10), want
}

func TestIndexed(t *testing.T) {
	defer goleak.VerifyNone(t)
	r := rand.New(rand.NewPCG(1, 2))
	one, want := makeLayer(t, r)
	tests := []struct {
		name       string
		blob, want []byte
	}{
		{"one member", one, want},
		{"padded", append(bytes.Clone(one), 0, 0, 0), want},
		{"members", slices.Concat(one, gz(t, nil, nil), gz(t, want[:1000], nil), one), slices.Concat(want, want[:1000], want)},
		{"many members", blobOf(t, r, want, 50<<10, 6), want},
		{"full header", headerCRC(gz(t, want, func(w *stdgzip.Writer) { w.Name, w.Extra = "layer.tar", []byte("extra") })), want},
		{"klauspost", encode(t, want, klauspost(1), 0), want},
		{"stored", encode(t, want, stdEncoder(0), 0), want},
	}
	for _, tt := range tests {
		for _, span := range []int64{100 << 10, 1 << 20} {
			x := record(t, tt.blob, span)
			for _, workers := range []int{2, 5} {
				got, stats, err := readBy(bytes.NewReader(tt.blob), x, workers, 1<<30)
				if err != nil || !bytes.Equal(got, tt.want) {
					t.Errorf("%s, span %d: %d bytes, %v; want %d", tt.name, span, len(got), err, len(tt.want))
				}
				if len(x.Points) < 3 || stats.dropped > 0 || stats.spans < len(x.Points)-2 {
					t.Errorf("%s, span %d: %d points, %+v", tt.name, span, len(x.Points), stats)
				}
			}
		}
	}
}

// TestIndexedSlowSource decodes from a source that returns little at a time and
// fails.
func TestIndexedSlowSource(t *testing.T) {
	defer goleak.VerifyNone(t)
	blob, want := makeLayer(t, rand.New(rand.NewPCG(3, 4)))
	x := record(t, blob, 200<<10)
	if got, _, err := readBy(iotest.HalfReader(bytes.NewReader(blob)), x, 3, 1<<30); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes, %v; want %d", len(got), err, len(want))
	}
	broken := errors.New("connection reset")
	src := io.MultiReader(bytes.NewReader(blob[:len(blob)/2]), iotest.ErrReader(broken))
	got, _, err := readBy(src, x, 3, 1<<30)
	if !errors.Is(err, broken) || errors.Is(err, ErrCorrupt) || !bytes.HasPrefix(want, got) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

// TestIndexedShortSpans decodes spans that are shorter than the history, and
// records an index while decoding by another one.
func TestIndexedShortSpans(t *testing.T) {
	defer goleak.VerifyNone(t)
	r := rand.New(rand.NewPCG(15, 16))
	want := mixedContent(t, r, 1<<20)
	one, members := encode(t, want, stdEncoder(6), 20<<10), blobOf(t, r, want, 50<<10, 6)
	for name, blob := range map[string][]byte{"one member": one, "members": members} {
		for _, span := range []int64{1, 100 << 10} {
			x := record(t, blob, span)
			for _, again := range []*index.Recorder{nil, index.NewRecorder(span)} {
				m, err := newMembers(flate.NewInput(bytes.NewReader(blob)), 2)
				if err != nil {
					t.Fatal(err)
				}
				m.applyOptions(Options{Index: x, Record: again})
				idx := m.idx
				got, err := io.ReadAll(m)
				m.close()
				if err != nil || !bytes.Equal(got, want) || idx.stats.dropped > 0 || idx.stats.spans < len(x.Points)-2 {
					t.Errorf("%s, span %d: %d bytes, %v, %+v of %d points; want %d", name, span, len(got), err, idx.stats, len(x.Points), len(want))
				}
			}
		}
	}
}

// TestIndexedClose checks that a reader that stops early leaves no goroutine.
func TestIndexedClose(t *testing.T) {
	defer goleak.VerifyNone(t)
	blob, want := makeLayer(t, rand.New(rand.NewPCG(5, 6)))
	x := record(t, blob, 100<<10)
	for _, most := range []int64{0, 1, 300 << 10} {
		if got, _, err := readBy(bytes.NewReader(blob), x, 4, most); err != nil || !bytes.Equal(got, want[:most]) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
	}
}

// TestIndexedHostile checks that a wrong index never changes the output or the
// error.
func TestIndexedHostile(t *testing.T) {
	defer goleak.VerifyNone(t)
	r := rand.New(rand.NewPCG(7, 8))
	blob, want := makeLayer(t, r)
	other, _ := makeLayer(t, r)
	twice := append(bytes.Clone(blob), gz(t, want[:100<<10], nil)...)
	wants := map[string][]byte{"one": want, "two": slices.Concat(want, want[:100<<10])}
	edits := map[string]func(x *index.Index, p *index.Point){
		"bits": func(_ *index.Index, p *index.Point) { p.Bits++ },
		"byte": func(_ *index.Index, p *index.Point) { p.Bits += 8 },
		"far":  func(_ *index.Index, p *index.Point) { p.Bits += 1 << 40 },
		"kind": func(_ *index.Index, p *index.Point) {
			p.Kind, p.Bits, p.Window = index.Member, p.Bits&^7, index.Window{}
		},
		"no window": func(_ *index.Index, p *index.Point) { p.Window = index.Window{} },
		"window":    func(_ *index.Index, p *index.Point) { p.Window = index.NewWindow(flip(p.Window), nil) },
		"short":     func(_ *index.Index, p *index.Point) { p.Window = index.NewWindow(p.Window.Append(nil)[20000:], nil) },
		"other":     func(x *index.Index, _ *index.Point) { *x = *record(t, other, 200<<10) },
	}
	for name, edit := range edits {
		dropped := 0
		for which, blob := range map[string][]byte{"one": blob, "two": twice} {
			for _, at := range []int{1, 2, 5} {
				x := record(t, blob, 200<<10)
				edit(x, &x.Points[at])
				x.Points = slices.DeleteFunc(x.Points, func(p index.Point) bool { return name == "far" && p.Bits > x.Points[at].Bits })
				got, stats, err := readBy(bytes.NewReader(blob), x, 3, 1<<30)
				if err != nil || !bytes.Equal(got, wants[which]) {
					t.Errorf("%s %s %d: %d bytes, %v; want %d", name, which, at, len(got), err, len(wants[which]))
				}
				dropped += stats.dropped
			}
		}
		if dropped == 0 && name != "far" { // a point after the end is never reached
			t.Errorf("%s: the index was never dropped", name)
		}
	}
}

// flip returns the history of w with every byte changed.
func flip(w index.Window) []byte {
	p := w.Append(nil)
	for i := range p {
		p[i] ^= 0xff
	}
	return p
}

// TestIndexedDamage checks that a damaged blob yields the output and the error
// of the serial decoder.
func TestIndexedDamage(t *testing.T) {
	defer goleak.VerifyNone(t)
	r := rand.New(rand.NewPCG(9, 10))
	blob, _ := makeLayer(t, r)
	x := record(t, blob, 150<<10)
	for i := range 24 {
		bad := bytes.Clone(blob)
		switch at := r.IntN(len(bad)); {
		case i%6 == 0:
			bad = bad[:at]
		case i%6 == 1:
			bad = append(bad, "garbage"...)
		case i%6 == 2:
			bad[len(bad)-1-at%8] ^= 1
		default:
			bad[at] ^= 1 << r.IntN(8)
		}
		want, _, werr := readBy(bytes.NewReader(bad), nil, 0, 1<<30)
		got, _, err := readBy(bytes.NewReader(bad), x, 3, 1<<30)
		if !sameErr(err, werr) || !bytes.Equal(got, want) {
			t.Errorf("%d: %d bytes, %v; serial: %d, %v", i, len(got), err, len(want), werr)
		}
	}
}

// FuzzIndexed compares decoding by a right or wrong index with the serial
// decoder.
func FuzzIndexed(f *testing.F) {
	var data []byte
	for i := range 400 {
		data = fmt.Append(data, "line ", i*i, " of a file, line by line\n")
	}
	blob := encode(f, data, stdEncoder(6), 500)
	f.Add(blob, uint8(20), []byte{})
	f.Add(blob, uint8(20), []byte{3, 1, 2, 9, 4, 200})
	f.Add(append(bytes.Clone(blob), blob...), uint8(1), []byte{1, 0, 8})
	f.Add(append(bytes.Clone(blob), 0, 0), uint8(9), []byte{2, 2, 1, 2, 3, 7})
	// More output than the history, so that spans have claims of 32 KiB, and
	// the first claims are reused: with right claims, wrong claims, and a point
	// inside a block.
	long := encode(f, mixedContent(f, rand.New(rand.NewPCG(3, 4)), 300<<10), stdEncoder(6), 9000)
	f.Add(long, uint8(255), []byte{})
	f.Add(long, uint8(255), []byte{5, 1, 9, 7, 3, 200, 9, 0, 8})
	f.Add(append(bytes.Clone(long[:len(long)-8]), "checksum"...), uint8(255), []byte{})
	f.Add(long[:len(long)*2/3], uint8(255), []byte{})
	f.Fuzz(func(t *testing.T, in []byte, span uint8, edits []byte) {
		if detectFormat(in) != Gzip {
			return
		}
		const most = 1 << 20
		rec := index.NewRecorder(1 + int64(span)*16)
		r, err := NewReader(bytes.NewReader(in), Options{Record: rec})
		if err != nil {
			return
		}
		want, werr := io.ReadAll(io.LimitReader(r, most))
		r.Close()
		x, err := rec.Index(index.Blob{})
		if err != nil {
			t.Fatal(err)
		}
		for ; len(edits) >= 3; edits = edits[3:] {
			p := &x.Points[int(edits[0])%len(x.Points)]
			switch v := edits[2]; edits[1] % 4 {
			case 0:
				p.Bits += int64(v) - 100
			case 1:
				past := p.Window.Append(nil)
				if len(past) > 0 {
					past[int(v)*len(past)/256] ^= 1
				}
				p.Window = index.NewWindow(past, nil)
			case 2:
				p.Kind = index.Kind(v % 2)
			default:
				p.Window = index.NewWindow(make([]byte, int(v)*128), nil)
			}
		}
		if x.Check() != nil {
			return
		}
		got, _, err := readBy(bytes.NewReader(in), x, 3, most)
		if !sameErr(err, werr) || !bytes.Equal(got, want) {
			t.Errorf("%d bytes, %v; serial: %d bytes, %v", len(got), err, len(want), werr)
		}
	})
}

// TestWindowSparse checks that a window keeps only the bytes that are referred
// to.
func TestWindowSparse(t *testing.T) {
	blob, _ := makeLayer(t, rand.New(rand.NewPCG(11, 12)))
	x := record(t, blob, 100<<10)
	kept, all := 0, 0
	for _, p := range x.Points {
		kept, all = kept+p.Window.Kept(), all+p.Window.Len()
	}
	if all < flate.History || kept == 0 || kept > all/2 {
		t.Errorf("%d of %d bytes kept", kept, all)
	}
}
