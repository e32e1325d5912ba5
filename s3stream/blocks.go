package s3stream

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/penstock/penstock/internal/budget"
	"github.com/penstock/penstock/internal/crc"
	"github.com/penstock/penstock/internal/ranges"
	"github.com/penstock/penstock/s3stream/internal/ring"
	"github.com/penstock/penstock/s3stream/internal/wire"
)

// partStream is what the block reader needs of a ranges.Stream.
type partStream interface {
	Next(ctx context.Context) (ranges.Part, error)
	Close() error
}

// blockReader cuts the parts of one object into the blocks of the job. A block
// is a window onto its part's buffer, not a copy, unless it crosses a part's
// end; parts are multiples of a block, so that happens only when a server
// answered with other lengths than asked.
type blockReader struct {
	s      partStream
	b      *budget.Budget // for the odd block that is copied
	items  *items
	object int
	off    int64       // of the next block
	cur    ranges.Part // the part that off lies in; Buf nil when there is none
	sum    uint32      // CRC32C of the object up to off; right only if it began at 0
}

// next returns the next block, with one reference to its buffer; io.EOF after
// the last.
func (r *blockReader) next(ctx context.Context) (ring.Item, error) {
	o := &r.items.m.Objects[r.object]
	n := min(r.items.m.BlockBytes, o.Size-r.off)
	if n == 0 {
		return ring.Item{}, r.finish(ctx)
	}
	if err := r.fill(ctx); err != nil {
		return ring.Item{}, err
	}
	at := r.off - r.cur.Off
	var it ring.Item
	if rest := int64(len(r.cur.Buf.Bytes())) - at; rest >= n {
		r.cur.Buf.Retain()
		it = ring.Item{Buf: r.cur.Buf, Frame: wire.Frame{Payload: r.cur.Buf.Bytes()[at : at+n]}}
	} else {
		var err error
		if it, err = r.gather(ctx, n); err != nil {
			return ring.Item{}, err
		}
	}
	sum := wire.Sum(it.Payload)
	it.Header = wire.Header{Type: wire.Block, Object: uint32(r.object), Length: uint32(n), Offset: r.off, Sum: sum}
	r.sum = crc.Castagnoli.Combine(r.sum, sum, n)
	r.off += n
	return it, nil
}

// fill makes cur the part that r.off lies in.
func (r *blockReader) fill(ctx context.Context) error {
	for r.cur.Buf == nil || r.off >= r.cur.Off+int64(len(r.cur.Buf.Bytes())) {
		r.drop()
		p, err := r.s.Next(ctx)
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return err
		}
		if r.off < p.Off || len(p.Buf.Bytes()) == 0 {
			p.Buf.Release()
			return fmt.Errorf("read part at %d, expected %d", p.Off, r.off)
		}
		r.cur = p
	}
	return nil
}

// gather copies a block that lies in more than one part.
func (r *blockReader) gather(ctx context.Context, n int64) (ring.Item, error) {
	buf, err := r.b.Get(ctx, int(n))
	if err != nil {
		return ring.Item{}, err
	}
	start := r.off
	for got := int64(0); got < n; {
		if err := r.fill(ctx); err != nil {
			r.off = start
			buf.Release()
			return ring.Item{}, err
		}
		k := int64(copy(buf.Bytes()[got:], r.cur.Buf.Bytes()[r.off-r.cur.Off:]))
		got += k
		r.off += k
	}
	r.off = start
	return ring.Item{Buf: buf, Frame: wire.Frame{Payload: buf.Bytes()}}, nil
}

// finish waits for the stream's own end, which is where it compares checksums.
func (r *blockReader) finish(ctx context.Context) error {
	r.drop()
	if r.s == nil { // an empty object has nothing to read
		return io.EOF
	}
	p, err := r.s.Next(ctx)
	if err == nil {
		p.Buf.Release()
		return fmt.Errorf("%w: it grew", ErrChanged)
	}
	return err
}

func (r *blockReader) drop() {
	if r.cur.Buf != nil {
		r.cur.Buf.Release()
		r.cur.Buf = nil
	}
}

func (r *blockReader) close() {
	r.drop()
	if r.s != nil {
		_ = r.s.Close() // it only stops requests; what failed was told by next
	}
}

// endItem makes the item that ends an object.
func endItem(object int, t wire.Trailer) ring.Item {
	p := t.Append(make([]byte, 0, wire.TrailerLen))
	h := wire.Header{Type: wire.End, Object: uint32(object), Length: wire.TrailerLen, Offset: t.Size, Sum: wire.Sum(p)}
	return ring.Item{Frame: wire.Frame{Header: h, Payload: p}}
}
