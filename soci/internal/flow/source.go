package flow

import (
	"context"
	"fmt"
	"hash"
	"io"
	"sync/atomic"
	"time"

	"github.com/penstock/penstock/internal/ranges"
	"github.com/penstock/penstock/soci/internal/inflate"
)

// source is the compressed side of a pipeline.
type source struct {
	stream  *ranges.Stream
	tee     io.Writer        // receives a copy of the blob, or nil
	parts   chan ranges.Part // from fetch to inflate
	waiting atomic.Bool      // fetch waits for the network
	digest  hash.Hash
	// received counts compressed bytes. It belongs to fetch until fetch ends.
	received int64
}

// fetch takes parts from the engine, hashes them and passes them to inflate.
func (p *pipeline) fetch(ctx context.Context) error {
	in := &p.source
	defer close(in.parts)
	var old int64 // bytes that are fetched again and already in the digest
	if p.resume != nil {
		old = p.resume.Received - p.resume.Point.Bits/8
	}
	for {
		in.waiting.Store(true)
		part, err := in.stream.Next(ctx)
		in.waiting.Store(false)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		data := part.Buf.Bytes()
		fresh := data[min(old, int64(len(data))):]
		old -= int64(len(data) - len(fresh))
		start := time.Now()
		in.digest.Write(fresh)
		p.hashTime.Add(int64(time.Since(start)))
		in.received += int64(len(fresh))
		p.onFetch(int64(len(fresh)))
		if in.tee != nil {
			if _, err := in.tee.Write(fresh); err != nil {
				part.Buf.Release()
				return err
			}
		}
		if p.checkpoints != nil { // after the copy, which must hold all bytes of a checkpoint
			p.checkpoints.fetched(in.digest, in.received)
		}
		select {
		case in.parts <- part:
		case <-p.stop.done:
			part.Buf.Release()
		case <-ctx.Done():
			part.Buf.Release()
			return context.Cause(ctx)
		}
	}
}

// partReader reads the compressed stream for inflate.
type partReader struct {
	parts  <-chan ranges.Part
	fed    *atomic.Int64 // counts the bytes that were read
	part   ranges.Part
	rest   []byte // of part
	waited time.Duration
}

// Read implements io.Reader. It returns io.EOF after a failed fetch as well;
// pipeline.outcome looks at the error of fetch first.
func (r *partReader) Read(dst []byte) (int, error) {
	for len(r.rest) == 0 {
		r.close()
		start := time.Now()
		part, ok := <-r.parts
		r.waited += time.Since(start)
		if !ok {
			return 0, io.EOF
		}
		r.part, r.rest = part, part.Buf.Bytes()
	}
	n := copy(dst, r.rest)
	r.rest = r.rest[n:]
	r.fed.Add(int64(n))
	return n, nil
}

// drain reads to the end. It fails if the decoder has not used all bytes.
func (r *partReader) drain() error {
	var extra int64
	buf := make([]byte, 4<<10) // rarely used: valid blobs end with the compressed stream
	for {
		n, err := r.Read(buf)
		extra += int64(n)
		if err == io.EOF {
			break
		}
	}
	if extra > 0 {
		return fmt.Errorf("%w: %d bytes after the end of the compressed stream", inflate.ErrCorrupt, extra)
	}
	return nil
}

// close releases the current part.
func (r *partReader) close() {
	if r.part.Buf != nil {
		r.part.Buf.Release()
		r.part, r.rest = ranges.Part{}, nil
	}
}
