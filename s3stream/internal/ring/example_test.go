package ring_test

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/penstock/penstock/s3stream/internal/ring"
	"github.com/penstock/penstock/s3stream/internal/wire"
)

// One producer, two consumers at their own pace.
func Example() {
	ctx := context.Background()
	r := ring.New(4)
	defer r.Close(io.ErrClosedPipe)
	sink, _ := r.Attach(0, false)
	child, _ := r.Attach(0, true)
	for i := range 2 {
		_ = r.Put(ctx, ring.Item{Frame: wire.Frame{Header: wire.Header{Type: wire.End, Object: uint32(i)}}})
	}
	r.Finish()
	for _, c := range []*ring.Cursor{sink, child} {
		batch := make([]ring.Item, 8)
		n, _ := c.Next(ctx, batch, 1<<20)
		c.Ack(uint64(n), uint64(n), 0)
		_, err := c.Next(ctx, batch, 1<<20)
		fmt.Println(n, errors.Is(err, io.EOF))
	}
	// Output:
	// 2 true
	// 2 true
}
