package s3stream

import (
	"context"
	"time"

	"github.com/penstock/penstock/internal/budget"
	"github.com/penstock/penstock/internal/ranges"
	"github.com/penstock/penstock/s3stream/internal/ring"
)

// Get reads objects at one node, without workers: in order, by parallel ranged
// GETs, each byte once, verified like a broadcast.
func Get(ctx context.Context, opts GetOptions) (*Report, error) {
	if err := opts.Validate(); err != nil {
		return nil, err
	}
	opts.setDefaults()
	st, err := openStore(ctx, opts.S3)
	if err != nil {
		return nil, err
	}
	defer st.close()
	engine, err := ranges.New(ranges.Options{Budget: budget.New(opts.MemoryBytes), Hedge: hedge, Retry: opts.S3.retry(), Log: opts.S3.Log})
	if err != nil {
		return nil, err
	}
	defer engine.Close()
	began := time.Now()
	m := &Manifest{BlockBytes: DefaultBlockBytes}
	if opts.MemoryBytes < minMemory(m.BlockBytes) {
		m.BlockBytes = MinBlockBytes
	}
	if m.Objects, err = st.resolve(ctx, opts.URIs); err != nil {
		return nil, err
	}
	if err := m.check(); err != nil {
		return nil, err
	}
	out, err := opts.Output.open(m)
	if err != nil {
		return nil, &Error{Op: "deliver", Err: err}
	}
	defer out.close()
	it := newItems(m)
	d := newDelivery(it, out)
	f := newFeeder(it, st, engine, divide(opts.MemoryBytes, m.BlockBytes))
	told := began
	tell := func(now time.Time) {
		if told = now; opts.Progress != nil {
			opts.Progress(d.bytes.Load(), m.Bytes())
		}
	}
	err = f.run(ctx, func(_ context.Context, it ring.Item) error {
		defer it.Release()
		err := d.item(ctx, it)
		if now := time.Now(); now.Sub(told) >= statusEvery {
			tell(now)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	tell(time.Now())
	s := engine.Stats()
	return &Report{
		Objects: len(m.Objects), Bytes: d.bytes.Load(), Elapsed: time.Since(began), Hash: d.digest.String(),
		StoreRequests: s.Requests, StoreBytes: s.Received,
	}, nil
}
