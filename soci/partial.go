package soci

import (
	"bytes"
	"crypto/sha256"
	"encoding"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"

	"github.com/penstock/penstock/internal/disk"
	"github.com/penstock/penstock/soci/internal/inflate"
	"github.com/penstock/penstock/soci/internal/inflate/flate"
	"github.com/penstock/penstock/soci/internal/inflate/index"
	"github.com/penstock/penstock/soci/internal/registry"
	"github.com/penstock/penstock/soci/internal/stage"
	"github.com/penstock/penstock/soci/internal/untar"
)

const (
	// partialVersion is of the form of partial. Another one means: begin anew.
	partialVersion = 3
	// partialShare: a checkpoint that is large, of a layer with very many files, is
	// written when this many times its bytes of tar have passed, so that all of them
	// are less than half a percent of what is written.
	partialShare = 256
	// maxPartial bounds one: that of three million files has so much.
	maxPartial = 64 << 20 // bytes
)

// partial is what an earlier attempt has left of a layer: where it can be gone on from,
// or all of it.
//
// What makes going on safe: Diff is the state of the DiffID for exactly the bytes before
// Tar, and the tree is what these bytes say, for all that came later is removed. So the
// DiffID in the end is that of the bytes that made the tree, whoever sent them
// when, and whatever else of a partial is wrong. The digest of the blob goes on from where
// it was; bytes that are fetched again to decode from Point on are not in it twice.
type partial struct {
	Version int    `json:"version"`
	Boot    string `json:"boot"` // the running system: files are not flushed
	Digest  string `json:"digest"`
	DiffID  string `json:"diff_id"`
	Size    int64  `json:"size"`

	Format   inflate.Format  `json:"format"`
	Point    point           `json:"point"`
	Received int64           `json:"received"` // bytes of the blob in Blob
	Blob     []byte          `json:"blob"`     // state of its digest
	Tar      int64           `json:"tar"`      // bytes of tar in Diff
	Diff     []byte          `json:"diff"`     // state of the DiffID
	State    json.RawMessage `json:"state"`    // untar's, for the offset Tar

	// Finished layers are whole and verified, but not yet in the form that they are wanted
	// in. State then is untar's of the layer, and the other fields from Format on are zero.
	Finished *Layer `json:"finished,omitempty"`
}

// point is where decoding can begin: in a gzip blob a block, in a zstd blob a frame, else any
// byte.
type point struct {
	Member bool   `json:"member,omitempty"` // a gzip member or a zstd frame begins here
	Bits   int64  `json:"bits"`             // of the blob before it
	Out    int64  `json:"out"`              // bytes of tar before it
	Past   []byte `json:"past,omitempty"`   // the last 32 KiB of them
}

func (p point) index() index.Point {
	if p.Member {
		return index.Point{Kind: index.Member, Bits: p.Bits, Out: p.Out}
	}
	return index.Point{Kind: index.Block, Bits: p.Bits, Out: p.Out, Window: index.NewWindow(p.Past, nil)}
}

// check reports whether p can be of a layer.
func (p *partial) check(l registry.Layer, boot string) error {
	switch {
	case p.Version != partialVersion:
		return fmt.Errorf("version %d", p.Version)
	case p.Boot != boot || boot == "":
		return errors.New("of another boot")
	case p.Digest != l.Digest.String(), p.DiffID != l.DiffID.String(), p.Size != l.Size:
		return errors.New("of another layer")
	case p.Finished != nil:
		return nil
	case p.Point.Bits < 0, p.Point.Bits/8 > p.Received, p.Received > p.Size, p.Point.Out < 0, p.Point.Out > p.Tar, len(p.Point.Past) > flate.History:
		return errors.New("out of range")
	case p.Format != inflate.Gzip && p.Format != inflate.None && (p.Format != inflate.Zstd || !p.Point.Member), p.Format == inflate.None && p.Point.Bits != p.Point.Out*8:
		return errors.New("of a format that can't be gone on with")
	}
	return nil
}

// partFile is where the partial of one layer is kept; nil keeps none.
type partFile struct {
	path  string
	boot  string
	every int64    // bytes of tar between two partials; negative: none but finished ones
	most  int64    // bytes of untar's state in one
	from  *partial // what an earlier attempt left of a layer that is not finished
	done  *partial // or of one that is
	last  int64    // size of the last one
}

// open reads what an earlier attempt left of a layer. What is damaged counts as nothing.
func (f *partFile) open(l registry.Layer) {
	p, err := readPart(f.path)
	switch {
	case err != nil, p.check(l, f.boot) != nil:
	case p.Finished != nil:
		f.done = p
	case f.every > 0:
		f.from = p
	}
}

// Unfinished reports whether path is a checkpoint that [Puller.UnpackLayer] could go on
// from, if it is of the layer that is asked for: one of the running system.
func Unfinished(path string) bool {
	p, err := readPart(path)
	return err == nil && p.Version == partialVersion && p.Boot == disk.BootID() && p.Boot != ""
}

// readPart reads a file: the checksum of the rest in a line, the rest.
func readPart(path string) (*partial, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxPartial+1))
	if err != nil {
		return nil, err
	}
	sum, body, _ := bytes.Cut(data, []byte{'\n'})
	if len(data) > maxPartial || string(sum) != partSum(body) {
		return nil, errors.New("damaged")
	}
	p := new(partial)
	return p, json.Unmarshal(body, p)
}

func partSum(body []byte) string {
	sum := sha256.Sum256(body)
	return hex.EncodeToString(sum[:])
}

// save replaces the file.
func (f *partFile) save(p *partial) error {
	p.Version, p.Boot = partialVersion, f.boot
	body, err := json.Marshal(p)
	if err != nil {
		return err
	}
	f.last = int64(len(body))
	if f.last+2*sha256.Size+1 > maxPartial {
		return fmt.Errorf("a checkpoint of %d bytes is too large", f.last)
	}
	return disk.Replace(f.path, disk.Options{}, disk.Bytes(append([]byte(partSum(body)+"\n"), body...)))
}

// finish says that the layer is whole and verified.
func (f *partFile) finish(l *Layer, u *untar.Layer) error {
	if f == nil {
		return nil
	}
	state, err := u.Save(stage.MaxState)
	if err != nil {
		return err
	}
	return f.save(&partial{Digest: l.Digest, DiffID: l.DiffID, Size: l.CompressedBytes, State: state, Finished: l})
}

// kept reports whether something is saved.
func (f *partFile) kept() bool {
	if f == nil {
		return false
	}
	_, err := os.Lstat(f.path)
	return err == nil
}

// drop forgets what was saved.
func (f *partFile) drop() {
	if f != nil {
		f.from, f.done = nil, nil
		_ = os.Remove(f.path) // mostly there is none
	}
}

// stateOf appends the state of a digest to buf.
func stateOf(buf []byte, h hash.Hash) ([]byte, error) {
	a, ok := h.(encoding.BinaryAppender)
	if !ok {
		return nil, errors.ErrUnsupported
	}
	return a.AppendBinary(buf)
}

// setState makes a digest go on from a state.
func setState(h hash.Hash, state []byte) error {
	u, ok := h.(encoding.BinaryUnmarshaler)
	if !ok {
		return errors.ErrUnsupported
	}
	return u.UnmarshalBinary(state)
}
