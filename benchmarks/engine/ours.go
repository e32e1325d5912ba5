package main

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"

	"github.com/penstock/penstock/internal/budget"
	"github.com/penstock/penstock/internal/ranges"
	"github.com/penstock/penstock/internal/s3"
)

// readOurs reads with the engine as s3stream and csi use it: ordered streams with
// pinning, CRC and hedging, over the signing client.
func readOurs(ctx context.Context, j job, ref []byte) (int64, map[string]float64, error) {
	b := budget.New(j.budget)
	c, err := s3.New(ctx, s3.Options{Endpoint: j.endpoint, Budget: b})
	if err != nil {
		return 0, nil, err
	}
	e, err := ranges.New(ranges.Options{Budget: b, PartBytes: j.part, MaxConns: j.conns})
	if err != nil {
		return 0, nil, errors.Join(err, c.Close())
	}
	open := func(key string) *ranges.Object {
		return e.Object(c.Source(j.bucket, key, s3.SourceOptions{}), c.Spec(j.bucket, key, s3.ObjectInfo{}))
	}
	s := &sink{ref: ref}
	if j.objects == 0 {
		// A HEAD first, as in the plain reader. It returns the size, and the
		// checksum of the whole object, which the stream compares.
		var info s3.ObjectInfo
		if info, err = c.Head(ctx, j.bucket, j.key); err == nil {
			err = streamOne(ctx, e.Object(c.Source(j.bucket, j.key, s3.SourceOptions{}), c.Spec(j.bucket, j.key, info)), s)
		}
	} else {
		err = streamMany(ctx, j, open, s)
	}
	err = errors.Join(err, e.Close(), c.Close())
	st := e.Stats()
	return s.bytes.Load(), map[string]float64{
		"retries": float64(st.Retries), "hedges": float64(st.Hedges),
	}, s.check(err)
}

// streamOne reads one object in order and hands its parts to the sink.
func streamOne(ctx context.Context, obj *ranges.Object, s *sink) error {
	st := obj.Stream(ctx, 0, -1, ranges.StreamOptions{})
	defer st.Close()
	for {
		p, err := st.Next(ctx)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		s.writeAt(p.Buf.Bytes(), p.Off)
		p.Buf.Release()
	}
}

// streamMany reads the small objects, conns of them concurrently.
func streamMany(ctx context.Context, j job, open func(string) *ranges.Object, s *sink) error {
	var next atomic.Int64
	errs := make([]error, j.conns)
	var wg sync.WaitGroup
	for w := range j.conns {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < int64(j.objects) && errs[w] == nil; i = next.Add(1) - 1 {
				errs[w] = streamOne(ctx, open(j.smallName(int(i))), s)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}
