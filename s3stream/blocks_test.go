package s3stream

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"

	"pgregory.net/rapid"

	"github.com/penstock/penstock/internal/budget"
	"github.com/penstock/penstock/internal/ranges"
	"github.com/penstock/penstock/s3stream/internal/wire"
)

// cutParts is a partStream that gives data in parts of the given lengths.
type cutParts struct {
	b    *budget.Budget
	data []byte
	off  int
	cuts []int // absolute; the last part goes to the end
	fail error // instead of io.EOF
}

func (c *cutParts) Next(context.Context) (ranges.Part, error) {
	if c.off == len(c.data) {
		if c.fail != nil {
			return ranges.Part{}, c.fail
		}
		return ranges.Part{}, io.EOF
	}
	end := len(c.data)
	for len(c.cuts) > 0 && c.cuts[0] <= c.off {
		c.cuts = c.cuts[1:]
	}
	if len(c.cuts) > 0 {
		end = min(end, c.cuts[0])
	}
	buf := c.b.MustGet(end - c.off)
	copy(buf.Bytes(), c.data[c.off:end])
	p := ranges.Part{Off: int64(c.off), Buf: buf}
	c.off = end
	return p, nil
}

func (c *cutParts) Close() error { return nil }

// TestBlocksOfAnyParts: however a server cuts its answers, the blocks are the
// same, and no buffer is lost.
func TestBlocksOfAnyParts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		data := rapid.SliceOfN(rapid.Byte(), 0, 200).Draw(t, "data")
		m := &manifest{BlockBytes: rapid.Int64Range(1, 60).Draw(t, "block"), Objects: []Object{{Size: int64(len(data))}}}
		c := &cutParts{b: budget.New(1 << 30), data: data}
		at := 0
		for at < len(data) {
			at += rapid.IntRange(1, 90).Draw(t, "part")
			c.cuts = append(c.cuts, at)
		}
		r := &blockReader{s: c, b: c.b, items: newItems(m)}
		var got []byte
		for {
			it, err := r.next(t.Context())
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if it.Header.Offset != int64(len(got)) || int64(it.Header.Length) != min(m.BlockBytes, int64(len(data)-len(got))) || it.Header.Sum != wire.Sum(it.Payload) {
				t.Fatalf("block %+v after %d bytes", it.Header, len(got))
			}
			got = append(got, it.Payload...)
			it.Release()
		}
		r.close()
		if !bytes.Equal(got, data) || r.sum != wire.Sum(data) {
			t.Fatalf("other bytes or sum")
		}
		if c.b.InUse() != 0 {
			t.Fatalf("%d bytes are still held", c.b.InUse())
		}
	})
}

func TestBlocksOfAWrongStream(t *testing.T) {
	m := &manifest{BlockBytes: 4, Objects: []Object{{Size: 10}}}
	for name, c := range map[string]struct {
		data string
		fail error
		want error
	}{
		"short":    {"12345678", nil, io.ErrUnexpectedEOF},
		"long":     {"1234567890ab", nil, ErrChanged},
		"checksum": {"1234567890", ErrChecksum, ErrChecksum},
	} {
		b := budget.New(1 << 20)
		r := &blockReader{s: &cutParts{b: b, data: []byte(c.data), cuts: []int{4, 10}, fail: c.fail}, b: b, items: newItems(m)}
		var err error
		for err == nil {
			it, e := r.next(t.Context())
			if err = e; err == nil {
				it.Release()
			}
		}
		r.close()
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
		if b.InUse() != 0 {
			t.Errorf("%s: %d bytes are still held", name, b.InUse())
		}
	}
}
