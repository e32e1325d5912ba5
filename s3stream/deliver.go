package s3stream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/minio/crc64nvme"

	"github.com/penstock/penstock/internal/crc"
	"github.com/penstock/penstock/internal/ranges"
	"github.com/penstock/penstock/s3stream/internal/ring"
	"github.com/penstock/penstock/s3stream/internal/wire"
)

// delivery passes items to a sink in order and proves each object before the
// sink ends it. One goroutine uses it; the counters may be read from others.
type delivery struct {
	items  *items
	sink   sink
	next   uint64 // the item that must come
	sum    uint32 // CRC32C of the object so far
	full   uint64 // CRC64NVME of it, if the manifest has one to compare with
	want   ranges.Checksum
	digest digest

	// proof returns what the leader read of an object, and the names of the nodes from which the object came. nil at
	// the leader and in Get, which read the store themselves.
	proof func(ctx context.Context, object int) (sum wire.ObjectSum, from string, err error)
	sha   hash.Hash // SHA-256 of the object so far; nil unless the job has digests

	bytes, objects atomic.Int64
}

func newDelivery(it *items, s sink) *delivery {
	return &delivery{items: it, sink: s, digest: newDigest()}
}

// run delivers everything that the cursor gives.
func (d *delivery) run(ctx context.Context, cur *ring.Cursor) error {
	batch := make([]ring.Item, 16)
	for {
		n, err := cur.Next(ctx, batch, MaxBlockBytes)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		for i, it := range batch[:n] {
			if err == nil {
				err = d.item(ctx, it)
			}
			it.Release()
			batch[i] = ring.Item{}
		}
		if err != nil {
			return err
		}
		cur.Ack(d.next, d.next, 0)
	}
}

// item delivers the next item.
func (d *delivery) item(ctx context.Context, it ring.Item) error {
	p := d.items.at(d.next)
	o := &d.items.m.Objects[p.object]
	d.next++
	if p.end {
		t, err := wire.ParseTrailer(it.Payload)
		if err == nil {
			err = d.end(ctx, p.object, t)
		}
		if err != nil {
			return &Error{Op: "deliver", Object: o.String(), Off: p.off, Err: err}
		}
		return nil
	}
	if p.off == 0 {
		d.startObject(o)
	}
	d.sum = crc.Castagnoli.Combine(d.sum, it.Header.Sum, p.n)
	if d.sha != nil {
		d.sha.Write(it.Payload)
	}
	if d.want.Algorithm == ranges.CRC64NVME {
		d.full = crc64nvme.Update(d.full, it.Payload)
	}
	if err := d.sink.block(o, p.off, it.Payload); err != nil {
		return &Error{Op: "deliver", Object: o.String(), Off: p.off, Err: err}
	}
	d.bytes.Add(p.n)
	return nil
}

func (d *delivery) startObject(o *Object) {
	d.sum, d.full = 0, 0
	d.want, _ = parseChecksum(o.Checksum) // checked when the manifest came
	if d.sha != nil {
		d.sha.Reset()
	}
}

// end compares what came with the parent's trailer, with what the store says of the object, and with what the
// leader says it read, and ends the file.
func (d *delivery) end(ctx context.Context, object int, t wire.Trailer) error {
	o := &d.items.m.Objects[object]
	if o.Size == 0 {
		d.startObject(o)
	}
	switch {
	case t.Size != o.Size:
		return fmt.Errorf("%w: the trailer says %d of %d bytes", ErrChecksum, t.Size, o.Size)
	case t.Sum != d.sum:
		return fmt.Errorf("%w: received CRC32C %08x, the trailer says %08x", ErrChecksum, d.sum, t.Sum)
	case d.want.Algorithm == ranges.CRC32C && d.want.Value != uint64(d.sum),
		d.want.Algorithm == ranges.CRC64NVME && d.want.Value != d.full:
		return fmt.Errorf("%w: the store says %s, received CRC32C %08x CRC64NVME %016x", ErrChecksum, o.Checksum, d.sum, d.full)
	}
	if err := d.prove(ctx, object); err != nil {
		return err
	}
	if err := d.sink.end(o); err != nil {
		return err
	}
	d.digest.add(o, d.sum)
	d.objects.Add(1)
	return nil
}

// prove waits for what the leader says of the object, and compares.
func (d *delivery) prove(ctx context.Context, object int) error {
	if d.proof == nil {
		return nil
	}
	want, from, err := d.proof(ctx, object)
	switch {
	case err != nil:
		return err
	case want.Size != d.items.m.Objects[object].Size:
		return fmt.Errorf("%w: the leader read %d of %d bytes", ErrChecksum, want.Size, d.items.m.Objects[object].Size)
	case want.Sum != d.sum:
		return fmt.Errorf("%w: the leader read CRC32C %08x, %s sent %08x with a matching trailer: that node or one above it altered the data",
			ErrChecksum, want.Sum, from, d.sum)
	case d.sha != nil && !bytes.Equal(want.Digest[:], d.sha.Sum(nil)):
		return fmt.Errorf("%w: the leader read SHA-256 %x, %s sent %x with a matching CRC32C: that node or one above it altered the data",
			ErrChecksum, want.Digest, from, d.sha.Sum(nil))
	}
	return nil
}

// formatChecksum writes a checksum as Object.Checksum has it.
func formatChecksum(c ranges.Checksum) string {
	switch c.Algorithm {
	case ranges.CRC32C:
		return fmt.Sprintf("CRC32C:%08x", c.Value)
	case ranges.CRC64NVME:
		return fmt.Sprintf("CRC64NVME:%016x", c.Value)
	case ranges.NoChecksum:
	}
	return ""
}

// parseChecksum reads what formatChecksum writes.
func parseChecksum(s string) (ranges.Checksum, error) {
	if s == "" {
		return ranges.Checksum{}, nil
	}
	name, digits, _ := strings.Cut(s, ":")
	v, err := strconv.ParseUint(digits, 16, 64)
	c := ranges.Checksum{Value: v}
	switch {
	case name == "CRC32C" && len(digits) == 8:
		c.Algorithm = ranges.CRC32C
	case name == "CRC64NVME" && len(digits) == 16:
		c.Algorithm = ranges.CRC64NVME
	default:
		err = errors.New("unknown form")
	}
	if err != nil {
		return ranges.Checksum{}, fmt.Errorf("checksum %q: %w", s, err)
	}
	return c, nil
}
