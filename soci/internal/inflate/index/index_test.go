package index

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	"github.com/penstock/penstock/soci/internal/inflate/flate"
)

// sample returns an index that uses all features.
func sample() *Index {
	r := rand.New(rand.NewPCG(1, 2))
	past := make([]byte, flate.History)
	for i := range past {
		past[i] = byte(r.IntN(256))
	}
	var refs flate.Refs
	for i := range refs {
		if i/100%7 == 3 || i == len(refs)-1 {
			refs[i] = 1
		}
	}
	return &Index{
		Blob: Blob{Digest: "sha256:0123", DiffID: "sha256:4567", Size: 1 << 30, Out: 3 << 30},
		Points: []Point{
			{Kind: Member, Header: 10},
			{Kind: Block, Bits: 12345, Out: 20000, Window: NewWindow(past[:20000], &refs)},
			{Kind: Block, Bits: 1 << 25, Out: 9 << 20, Window: NewWindow(past, &refs)},
			{Kind: Block, Bits: 2 << 25, Out: 18 << 20, Window: NewWindow(past, nil)},
			{Kind: Member, Bits: 3 << 25, Out: 27 << 20, Header: 100},
		},
	}
}

func save(t testing.TB, x *Index) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := x.Save(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestSaveLoad(t *testing.T) {
	x := sample()
	y, err := Load(bytes.NewReader(save(t, x)))
	if err != nil || !reflect.DeepEqual(x, y) {
		t.Errorf("%v: not the same", err)
	}
}

func TestWindow(t *testing.T) {
	past := bytes.Repeat([]byte("history."), flate.History/8)
	var refs flate.Refs
	refs[0], refs[flate.History-1], refs[flate.History-3] = 1, 1, 1
	tests := []struct {
		name string
		w    Window
		want []byte
		kept int
	}{
		{"all", NewWindow(past, nil), past, len(past)},
		{"more than all", NewWindow(append([]byte("x"), past...), nil), past, len(past)},
		{"nothing", NewWindow(nil, nil), nil, 0},
		{"some", NewWindow(past, &refs), append(append([]byte("h"), make([]byte, flate.History-4)...), 'r', 0, '.'), 3},
		{"short", NewWindow([]byte("abcd"), &refs), []byte{0, 'b', 0, 'd'}, 2},
	}
	for _, tt := range tests {
		got := tt.w.Append([]byte("x"))[1:]
		if !bytes.Equal(got, tt.want) || tt.w.Kept() != tt.kept || tt.w.Len() != len(tt.want) || tt.w.check() != nil {
			t.Errorf("%s: %d bytes, %d kept, %v", tt.name, len(got), tt.w.Kept(), tt.w.check())
		}
	}
}

func TestLoadDamage(t *testing.T) {
	good := save(t, sample())
	for i := 0; i < len(good); i += 1 + i/30 { // every length of the head
		bad := bytes.Clone(good)
		bad[i] ^= 1 << (i % 8)
		if _, err := Load(bytes.NewReader(bad)); !errors.Is(err, ErrFormat) {
			t.Errorf("byte %d flipped: %v", i, err)
		}
		if _, err := Load(bytes.NewReader(good[:i])); !errors.Is(err, ErrFormat) {
			t.Errorf("cut at %d: %v", i, err)
		}
	}
	if _, err := Load(bytes.NewReader(append(bytes.Clone(good), 0))); !errors.Is(err, ErrFormat) {
		t.Errorf("a byte more: %v", err)
	}
	next := bytes.Clone(good)
	next[len(magic)-1]++
	if _, err := Load(bytes.NewReader(next)); err == nil || !strings.Contains(err.Error(), "version 2, expected 1") {
		t.Errorf("next version: %v", err)
	}
	huge := bytes.Clone(good)
	binary.LittleEndian.PutUint32(huge[len(magic):], 1<<31)
	if _, err := Load(bytes.NewReader(huge)); !errors.Is(err, ErrFormat) {
		t.Errorf("huge: %v", err)
	}
}

func TestCheck(t *testing.T) {
	tests := map[string]func(*Index){
		"no points":         func(x *Index) { x.Points = nil },
		"negative size":     func(x *Index) { x.Size = -1 },
		"unknown kind":      func(x *Index) { x.Points[1].Kind = 9 },
		"member at a bit":   func(x *Index) { x.Points[4].Bits++ },
		"bits not in order": func(x *Index) { x.Points[2].Bits = x.Points[1].Bits },
		"out not in order":  func(x *Index) { x.Points[2].Out = 0 },
		"negative":          func(x *Index) { x.Points[0].Bits = -8 },
		"window":            func(x *Index) { x.Points[1].Window.n = 100 },
		"window data":       func(x *Index) { x.Points[1].Window.data = nil },
	}
	for name, edit := range tests {
		x := sample()
		if err := x.Check(); err != nil {
			t.Fatal(err)
		}
		edit(x)
		if err := x.Check(); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestLoadWithin checks that a small file that would take much memory is
// refused.
func TestLoadWithin(t *testing.T) {
	x := &Index{}
	for i := range int64(1000) { // 31 MiB of zeros
		x.Points = append(x.Points, Point{Kind: Block, Bits: 8000 + i*8000, Out: 1<<20 + i<<20, Window: NewWindow(make([]byte, flate.History), nil)})
	}
	file := save(t, x)
	if _, err := LoadWithin(bytes.NewReader(file), 1<<20); !errors.Is(err, ErrFormat) {
		t.Errorf("%d bytes: %v", len(file), err)
	}
	if _, err := LoadWithin(bytes.NewReader(file), 64<<20); err != nil {
		t.Error(err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(sample().body())
	f.Add((&Index{Points: []Point{{}}}).body())
	f.Add([]byte{0, 0, 0, 0, 0xff, 0xff, 0x3f})
	f.Fuzz(func(t *testing.T, body []byte) {
		x, err := parse(body)
		if err != nil {
			if !errors.Is(err, ErrFormat) {
				t.Errorf("%v", err)
			}
			return
		}
		for _, p := range x.Points {
			if n := len(p.Window.Append(nil)); n != p.Window.Len() || n > flate.History {
				t.Fatalf("window of %d bytes", n)
			}
		}
		y, err := Load(bytes.NewReader(save(t, x)))
		if err != nil || len(y.Points) != len(x.Points) {
			t.Errorf("not the same after a round: %v", err)
		}
	})
}
