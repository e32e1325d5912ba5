package main

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
	"sync/atomic"

	"github.com/penstock/penstock/internal/budget"
	"github.com/penstock/penstock/internal/httprange"
	"github.com/penstock/penstock/internal/ranges"
)

// readOurs is the engine as s3stream and csi use it: ordered streams with
// pinning, CRC and hedging on, over the signing client.
func readOurs(ctx context.Context, j job, ref []byte) (int64, map[string]float64, error) {
	open, err := oursSource(ctx, j)
	if err != nil {
		return 0, nil, err
	}
	e, err := ranges.New(ranges.Options{Budget: budget.New(j.budget), PartBytes: j.part, MaxConns: j.conns})
	if err != nil {
		return 0, nil, err
	}
	s := &sink{ref: ref}
	if j.objects == 0 {
		err = streamOne(ctx, e, open(j.key), j.key, s)
	} else {
		err = streamMany(ctx, e, j, open, s)
	}
	err = errors.Join(err, e.Close())
	st := e.Stats()
	return s.bytes.Load(), map[string]float64{
		"retries": float64(st.Retries), "hedges": float64(st.Hedges),
	}, s.check(err)
}

// streamOne reads one object in order and hands its parts to the sink.
func streamOne(ctx context.Context, e *ranges.Engine, src ranges.Source, name string, s *sink) error {
	obj := e.Object(src, ranges.Spec{Name: name, Host: "origin", Size: -1})
	defer obj.Close()
	st := obj.Stream(ctx, 0, -1, ranges.StreamOptions{})
	defer st.Close()
	for {
		p, err := st.Next(ctx)
		if errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			return nil
		}
		if err != nil {
			return err
		}
		s.writeAt(p.Buf.Bytes(), p.Off)
		p.Buf.Release()
	}
}

// streamMany reads the small objects, conns of them at a time.
func streamMany(ctx context.Context, e *ranges.Engine, j job, open func(string) ranges.Source, s *sink) error {
	var next atomic.Int64
	errs := make([]error, j.conns)
	var wg sync.WaitGroup
	for w := range j.conns {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < int64(j.objects) && errs[w] == nil; i = next.Add(1) - 1 {
				name := j.smallName(int(i))
				errs[w] = streamOne(ctx, e, open(name), name, s)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

type urlSource struct {
	g   *httprange.Getter
	url string
}

func (u urlSource) Open(ctx context.Context, req ranges.Request) (io.ReadCloser, ranges.Info, error) {
	return u.g.Open(ctx, u.url, req, func(context.Context, *http.Request) error { return nil })
}

func oursSource(_ context.Context, j job) (func(key string) ranges.Source, error) {
	c, f := httprange.NewClients(nil)
	g := &httprange.Getter{Client: c, FreshClient: f}
	return func(key string) ranges.Source { return urlSource{g, j.url(key)} }, nil
}
