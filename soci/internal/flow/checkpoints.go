package flow

import (
	"bytes"
	"errors"
	"hash"
	"log/slog"
	"slices"
	"sync"

	"github.com/penstock/penstock/soci/internal/checkpoint"
	"github.com/penstock/penstock/soci/internal/inflate"
	"github.com/penstock/penstock/soci/internal/inflate/index"
	"github.com/penstock/penstock/soci/internal/untar"
)

// checkpoints saves the progress of a layer while its pipeline runs. Every step
// reports its own state here, and the extraction combines them between two
// entries.
type checkpoints struct {
	p    *pipeline
	file *checkpoint.File
	log  *slog.Logger

	known int // how many of the recorder's points are in points; owned by inflate

	// The fields up to failed are owned by the extraction.
	current *block // being unpacked
	next    int64  // offset in the tar from which a checkpoint is due
	failed  bool   // no more checkpoints are made

	mu       sync.Mutex // guards the fields below
	grown    *sync.Cond // hashed has grown
	points   []checkpoint.Point
	hashed   int64 // blocks that start before this offset of the tar have their state
	received int64
	blobHash []byte // state of the blob's digest after received bytes
}

func newCheckpoints(p *pipeline, file *checkpoint.File, log *slog.Logger) *checkpoints {
	c := &checkpoints{p: p, file: file, log: log}
	c.grown = sync.NewCond(&c.mu)
	if from := file.Resume(); from != nil {
		c.next = from.Tar
	}
	c.next += file.Every()
	return c
}

// span returns the largest distance between points, in bytes of tar. Resuming
// decodes up to a span again. That is little compared with the bytes after the
// last checkpoint, which are lost as well.
func (c *checkpoints) span() int64 { return max(1, c.file.Every()/4) }

// fetched records the state of the blob's digest.
func (c *checkpoints) fetched(h hash.Hash, received int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	state, err := checkpoint.AppendHash(c.blobHash[:0], h)
	if err == nil {
		c.blobHash, c.received = state, received
	}
}

// hashing records the state of the DiffID before a block.
func (c *checkpoints) hashing(h hash.Hash, b *block) {
	c.mu.Lock()
	defer c.mu.Unlock()
	b.state, _ = checkpoint.AppendHash(b.state[:0], h) // after an error, collect fails and no checkpoint is made
	c.hashed = b.off + 1
	c.grown.Broadcast()
}

// recorded collects the points that were recorded since the last call.
func (c *checkpoints) recorded(rec *index.Recorder) {
	all := rec.Points()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, pt := range all[c.known:] {
		c.points = append(c.points, checkpoint.Point{Member: pt.Kind == index.Member, Bits: pt.Bits, Out: pt.Out, Past: pt.Window.Append(nil)})
	}
	c.known = len(all)
}

// untar returns the options of the extraction.
func (c *checkpoints) untar() *untar.Checkpoints {
	u := &untar.Checkpoints{Due: c.due, Save: c.save, Void: c.file.Drop, Max: c.file.MaxState}
	if from := c.file.Resume(); from != nil {
		u.From, u.At = from.Untar, from.Tar
	}
	return u
}

// due is the Due function of untar.Checkpoints. It reports whether a checkpoint
// at an offset of the tar is due and possible.
func (c *checkpoints) due(at int64) bool {
	if c.failed || at < c.next || c.current == nil || at <= c.current.off {
		return false
	}
	if c.p.decoded.format == inflate.None {
		return true
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.points) > 0 && c.points[0].Out <= at
}

// save is the Save function of untar.Checkpoints. If it fails, the pull
// continues without checkpoints.
func (c *checkpoints) save(at int64, state []byte) {
	s, err := c.collect(at)
	if err == nil {
		s.Untar = state
		err = c.file.Save(s)
	}
	if err != nil {
		c.log.Debug("no checkpoint", "digest", c.p.layer.Digest.String(), "err", err)
		c.failed = true
		c.file.Drop()
	}
	c.next = at + c.file.Distance()
}

// collect combines the states of all steps for an offset in the current block.
func (c *checkpoints) collect(at int64) (*checkpoint.State, error) {
	b, l := c.current, c.p.layer
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.hashed <= b.off { // cannot deadlock: hashTar has the block and waits for no other step
		c.grown.Wait()
	}
	h := l.DiffID.Algorithm().Hash()
	if err := checkpoint.RestoreHash(h, b.state); err != nil {
		return nil, err
	}
	h.Write(b.buf.Bytes()[:at-b.off])
	diff, err := checkpoint.AppendHash(nil, h)
	if err != nil {
		return nil, err
	}
	pt := checkpoint.Point{Bits: at * 8, Out: at}
	if c.p.decoded.format != inflate.None {
		i := slices.IndexFunc(c.points, func(p checkpoint.Point) bool { return p.Out > at })
		if i < 0 {
			i = len(c.points)
		}
		c.points = c.points[i-1:] // due has found a point before at
		pt = c.points[0]
	}
	if c.blobHash == nil {
		return nil, errors.ErrUnsupported
	}
	return &checkpoint.State{
		Digest: l.Digest.String(), DiffID: l.DiffID.String(), Size: l.Size, Format: c.p.decoded.format,
		Point: pt, Received: c.received, BlobHash: bytes.Clone(c.blobHash), Tar: at, DiffHash: diff,
	}, nil
}
