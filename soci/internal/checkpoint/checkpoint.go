package checkpoint

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
	// version is the format version of a file. Files with another version are
	// ignored.
	version = 3
	// tarPerByte is the number of tar bytes between two checkpoints for each
	// byte of the last one. A layer with very many files has large checkpoints.
	// With this distance, all checkpoints together are less than half a percent
	// of the written bytes.
	tarPerByte = 256
	// maxFile bounds a file, in bytes. A layer with three million files reaches
	// it.
	maxFile = 64 << 20
)

// State is the progress of a layer, or, if Finished is set, a finished layer.
type State struct {
	Version int    `json:"version"`
	Boot    string `json:"boot"` // boot ID of the system, because files are not flushed
	Digest  string `json:"digest"`
	DiffID  string `json:"diff_id"`
	Size    int64  `json:"size"`

	Format   inflate.Format  `json:"format"`
	Point    Point           `json:"point"`    // where decoding resumes
	Received int64           `json:"received"` // bytes of the blob in BlobHash
	BlobHash []byte          `json:"blob"`     // state of the blob's digest
	Tar      int64           `json:"tar"`      // bytes of tar in DiffHash
	DiffHash []byte          `json:"diff"`     // state of the DiffID
	Untar    json.RawMessage `json:"state"`    // saved by untar, at offset Tar

	// Finished describes a layer that is whole and verified but not yet
	// converted to the form of its target. Untar is then the state of the whole
	// layer, and the fields from Format to DiffHash are zero.
	Finished json.RawMessage `json:"finished,omitempty"`
}

// Point is an offset at which decoding can start: a block of a gzip blob, a
// frame of a zstd blob, or any byte of an uncompressed one.
type Point struct {
	Member bool   `json:"member,omitempty"` // a gzip member or a zstd frame starts here
	Bits   int64  `json:"bits"`             // of the blob before the point
	Out    int64  `json:"out"`              // bytes of tar before the point
	Past   []byte `json:"past,omitempty"`   // the last 32 KiB of tar before the point
}

// Index returns the point in the form that package inflate takes.
func (p Point) Index() index.Point {
	if p.Member {
		return index.Point{Kind: index.Member, Bits: p.Bits, Out: p.Out}
	}
	return index.Point{Kind: index.Block, Bits: p.Bits, Out: p.Out, Window: index.NewWindow(p.Past, nil)}
}

// check returns why s cannot be the state of a layer, or nil.
func (s *State) check(l registry.Layer, boot string) error {
	switch {
	case s.Version != version:
		return fmt.Errorf("unknown version %d", s.Version)
	case s.Boot != boot || boot == "":
		return errors.New("it belongs to another boot")
	case s.Digest != l.Digest.String(), s.DiffID != l.DiffID.String(), s.Size != l.Size:
		return errors.New("it belongs to another layer")
	case s.Finished != nil:
		return nil
	case s.Point.Bits < 0, s.Point.Bits/8 > s.Received, s.Received > s.Size, s.Point.Out < 0, s.Point.Out > s.Tar, len(s.Point.Past) > flate.History:
		return errors.New("an offset is out of range")
	case s.Format != inflate.Gzip && s.Format != inflate.None && (s.Format != inflate.Zstd || !s.Point.Member), s.Format == inflate.None && s.Point.Bits != s.Point.Out*8:
		return errors.New("its format cannot be resumed")
	}
	return nil
}

// File is the checkpoint file of one layer. A nil File saves no state; the
// methods Resume, Finished, Finish, Exists and Drop accept it.
type File struct {
	// MaxState bounds the state of untar in a checkpoint, in bytes.
	MaxState int64

	path     string
	every    int64 // bytes of tar between two checkpoints, see NewFile
	boot     string
	resume   *State // of an unfinished layer
	finished *State // of a finished layer
	size     int64  // of the last saved checkpoint
}

// NewFile returns the File at path. every is the number of tar bytes between
// two checkpoints; if it is negative only finished layers are saved.
func NewFile(path string, every, maxState int64) *File {
	return &File{path: path, boot: disk.BootID(), every: every, MaxState: maxState}
}

// Open reads the state of layer l that an earlier attempt has saved. It ignores
// a file that is damaged or belongs to another layer or boot.
func (f *File) Open(l registry.Layer) {
	s, err := read(f.path)
	switch {
	case err != nil, s.check(l, f.boot) != nil:
	case s.Finished != nil:
		f.finished = s
	case f.every > 0:
		f.resume = s
	}
}

// Resume returns the state of an unfinished layer that Open found, or nil.
func (f *File) Resume() *State {
	if f == nil {
		return nil
	}
	return f.resume
}

// Finished returns the state of a finished layer that Open found, or nil.
func (f *File) Finished() *State {
	if f == nil {
		return nil
	}
	return f.finished
}

// Restart makes Resume return nil, so that the layer starts at the beginning.
func (f *File) Restart() { f.resume = nil }

// Every returns the number of tar bytes between two checkpoints, or a number
// that is not positive if unfinished layers are not saved.
func (f *File) Every() int64 { return f.every }

// Distance returns the number of tar bytes until the next checkpoint.
func (f *File) Distance() int64 { return max(f.every, tarPerByte*f.size) }

// Usable reports whether path holds an undamaged checkpoint that was saved since
// the system booted. It can be resumed if it belongs to the right layer.
func Usable(path string) bool {
	s, err := read(path)
	return err == nil && s.Version == version && s.Boot == disk.BootID() && s.Boot != ""
}

// read reads a file: a line with the checksum of the rest, and the rest.
func read(path string) (*State, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	if err != nil {
		return nil, err
	}
	sum, body, _ := bytes.Cut(data, []byte{'\n'})
	if len(data) > maxFile || string(sum) != checksum(body) {
		return nil, errors.New("damaged")
	}
	s := new(State)
	return s, json.Unmarshal(body, s)
}

func checksum(body []byte) string {
	sum := sha256.Sum256(body)
	return hex.EncodeToString(sum[:])
}

// Save replaces the file atomically by one with this state.
func (f *File) Save(s *State) error {
	s.Version, s.Boot = version, f.boot
	body, err := json.Marshal(s)
	if err != nil {
		return err
	}
	f.size = int64(len(body))
	if f.size+2*sha256.Size+1 > maxFile {
		return fmt.Errorf("a checkpoint of %d bytes is too large", f.size)
	}
	return disk.Replace(f.path, disk.Options{}, disk.Bytes(append([]byte(checksum(body)+"\n"), body...)))
}

// Finish saves that a layer is whole and verified. A later attempt gets result
// back as State.Finished.
func (f *File) Finish(l registry.Layer, result any, u *untar.Layer) error {
	if f == nil {
		return nil
	}
	data, err := json.Marshal(result)
	if err != nil {
		return err
	}
	state, err := u.Save(stage.MaxState)
	if err != nil {
		return err
	}
	return f.Save(&State{Digest: l.Digest.String(), DiffID: l.DiffID.String(), Size: l.Size, Untar: state, Finished: data})
}

// Exists reports whether the file exists.
func (f *File) Exists() bool {
	if f == nil {
		return false
	}
	_, err := os.Lstat(f.path)
	return err == nil
}

// Drop removes the file and forgets its content.
func (f *File) Drop() {
	if f != nil {
		f.resume, f.finished = nil, nil
		_ = os.Remove(f.path) // it usually does not exist
	}
}

// AppendHash appends the state of a digest to buf.
func AppendHash(buf []byte, h hash.Hash) ([]byte, error) {
	a, ok := h.(encoding.BinaryAppender)
	if !ok {
		return nil, errors.ErrUnsupported
	}
	return a.AppendBinary(buf)
}

// RestoreHash sets a digest to a state that AppendHash returned.
func RestoreHash(h hash.Hash, state []byte) error {
	u, ok := h.(encoding.BinaryUnmarshaler)
	if !ok {
		return errors.ErrUnsupported
	}
	return u.UnmarshalBinary(state)
}
