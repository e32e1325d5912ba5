package soci

import (
	"bytes"
	"errors"
	"hash"
	"log/slog"
	"slices"
	"sync"

	"github.com/penstock/penstock/soci/internal/inflate"
	"github.com/penstock/penstock/soci/internal/inflate/index"
	"github.com/penstock/penstock/soci/internal/untar"
)

// checkpoints makes partials of a layer while its pipeline runs. Each goroutine of the
// pipeline leaves here what it knows; the one that unpacks puts it together between two
// entries.
type checkpoints struct {
	p    *pipeline
	file *partFile
	log  *slog.Logger

	known  int    // points of the recorder that were seen; inflate's
	cur    *block // the one that is unpacked; the sink's
	next   int64  // offset in the tar from which a checkpoint is due; the sink's
	failed bool   // no more of them; the sink's

	mu       sync.Mutex // guards what follows
	change   *sync.Cond // hashed has grown
	points   []point    // by Out
	hashed   int64      // blocks before this offset of the tar have their state
	received int64
	blob     []byte // state of the blob's digest, for received
}

func newCheckpoints(p *pipeline, file *partFile, log *slog.Logger) *checkpoints {
	c := &checkpoints{p: p, file: file, log: log}
	c.change = sync.NewCond(&c.mu)
	if from := file.from; from != nil {
		c.next = from.Tar
	}
	c.next += file.every
	return c
}

// span is how far points may be apart: what is decoded twice for one is less than what
// is done twice anyway.
func (c *checkpoints) span() int64 { return max(1, c.file.every/4) }

// fetched notes how far the digest of the blob is.
func (c *checkpoints) fetched(h hash.Hash, received int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	state, err := stateOf(c.blob[:0], h)
	if err == nil {
		c.blob, c.received = state, received
	}
}

// hashing notes the state of the DiffID before a block.
func (c *checkpoints) hashing(h hash.Hash, b *block) {
	c.mu.Lock()
	defer c.mu.Unlock()
	b.state, _ = stateOf(b.state[:0], h) // without one no checkpoint is made
	c.hashed = b.off + 1
	c.change.Broadcast()
}

// recorded takes over the points that were recorded meanwhile.
func (c *checkpoints) recorded(rec *index.Recorder) {
	all := rec.Points()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, pt := range all[c.known:] {
		c.points = append(c.points, point{Member: pt.Kind == index.Member, Bits: pt.Bits, Out: pt.Out, Past: pt.Window.Append(nil)})
	}
	c.known = len(all)
}

// untar is what the extraction is told.
func (c *checkpoints) untar() *untar.Checkpoints {
	u := &untar.Checkpoints{Due: c.due, Save: c.save, Void: c.file.drop, Max: c.file.most}
	if from := c.file.from; from != nil {
		u.From, u.At = from.State, from.Tar
	}
	return u
}

// due implements untar.Checkpoints.
func (c *checkpoints) due(at int64) bool {
	if c.failed || at < c.next || c.cur == nil || at <= c.cur.off {
		return false
	}
	if c.p.format == inflate.None {
		return true
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.points) > 0 && c.points[0].Out <= at
}

// save implements untar.Checkpoints.
func (c *checkpoints) save(at int64, state []byte) {
	part, err := c.collect(at)
	if err == nil {
		part.State = state
		err = c.file.save(part)
	}
	if err != nil { // the pull goes on without
		c.log.Debug("no checkpoint", "digest", c.p.desc.Digest.String(), "err", err)
		c.failed = true
		c.file.drop()
	}
	c.next = at + max(c.file.every, partialShare*c.file.last)
}

// collect puts together what is known for an offset in the current block.
func (c *checkpoints) collect(at int64) (*partial, error) {
	b, d := c.cur, c.p.desc
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.hashed <= b.off { // it has the block, and waits for nobody
		c.change.Wait()
	}
	h := d.DiffID.Algorithm().Hash()
	if err := setState(h, b.state); err != nil {
		return nil, err
	}
	h.Write(b.buf.Bytes()[:at-b.off])
	diff, err := stateOf(nil, h)
	if err != nil {
		return nil, err
	}
	pt := point{Bits: at * 8, Out: at}
	if c.p.format != inflate.None {
		i := slices.IndexFunc(c.points, func(p point) bool { return p.Out > at })
		if i < 0 {
			i = len(c.points)
		}
		c.points = c.points[i-1:] // due has seen one
		pt = c.points[0]
	}
	if c.blob == nil {
		return nil, errors.ErrUnsupported
	}
	return &partial{
		Digest: d.Digest.String(), DiffID: d.DiffID.String(), Size: d.Size, Format: c.p.format,
		Point: pt, Received: c.received, Blob: bytes.Clone(c.blob), Tar: at, Diff: diff,
	}, nil
}
