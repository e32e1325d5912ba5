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
	opts = opts.withDefaults()
	st, err := openStore(ctx, opts.S3)
	if err != nil {
		return nil, err
	}
	defer st.close()
	engine, err := ranges.New(ranges.Options{Budget: budget.New(opts.Memory), Hedge: hedge, Retry: opts.S3.retry(), Log: opts.S3.Log})
	if err != nil {
		return nil, err
	}
	defer engine.Close()
	began := time.Now()
	m := &manifest{BlockBytes: DefaultBlockBytes}
	if opts.Memory < minMemory(m.BlockBytes) {
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
	f := newFeeder(it, st, engine, divide(opts.Memory, m.BlockBytes))
	progress, reported := newProgressMeter(opts.Progress, m), began
	err = f.run(ctx, func(_ context.Context, it ring.Item) error {
		defer it.Release()
		err := d.item(ctx, it)
		if now := time.Now(); now.Sub(reported) >= statusEvery {
			reported = now
			progress.set(d.bytes.Load())
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	progress.done(d.bytes.Load())
	s := engine.Stats()
	return &Report{
		Objects: len(m.Objects), Bytes: d.bytes.Load(), Elapsed: time.Since(began), Hash: d.digest.String(),
		StoreRequests: s.Requests, StoreBytes: s.Received,
	}, nil
}
