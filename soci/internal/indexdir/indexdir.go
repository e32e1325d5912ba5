// Package indexdir is a directory of layer indexes: the offsets at which the
// decoding of a layer can start, recorded by an earlier pull.
//
//	dir := indexdir.Open(path, log)
//	idx := dir.Load(layer) // nil without an index
//	dir.Save(layer, recorder, tarBytes)
//
// The content of a file is only a hint. Package inflate compares it with the
// bytes it decodes, and both digests of a layer are verified either way. So a
// user that can write to the directory can slow a pull down but not change its
// result.
//
// # Failures
//
// A pull never fails because of its index. Load removes a file that is damaged,
// has another format version, or belongs to another layer. Problems are logged.
//
// # Concurrency
//
// A Dir may be used by any number of goroutines and processes.
//
// # Not done here
//
// The format of an index; see package index.
package indexdir

import (
	"cmp"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/penstock/penstock/internal/disk"
	"github.com/penstock/penstock/soci/internal/inflate/index"
	"github.com/penstock/penstock/soci/internal/registry"
	"github.com/penstock/penstock/soci/internal/stage"
)

// Name returns the name of the file with the index of a blob.
func Name(blob digest.Digest) string {
	return blob.Algorithm().String() + "-" + blob.Encoded() + suffix
}

const (
	suffix = ".layeridx"
	// tempPrefix starts the names of files that are being written.
	tempPrefix = ".index-"
	// maxDir bounds the directory, in bytes. It suffices for about 1 TB of
	// blobs.
	maxDir = 1 << 30
	// An index takes about a thousandth of its blob. A file of more than a
	// fiftieth of the blob, plus maxFileFree bytes, was not written by us.
	maxFilePart = 50
	maxFileFree = 64 << 10
	// A loaded index takes at most memoryFree bytes plus the size of its blob.
	// A layer of zeros has a history of 32 KiB for each 8 MiB of tar, other
	// layers far less.
	memoryFree = 16 << 20
	// minTar is the size of the smallest tar with more than one span, in bytes.
	minTar = 2 * index.DefaultSpan
)

// Dir is a directory of indexes.
type Dir struct {
	path string
	log  *slog.Logger
}

// Open returns the Dir at path, which must exist.
func Open(path string, log *slog.Logger) *Dir { return &Dir{path: path, log: log} }

func (d *Dir) file(l registry.Layer) string { return filepath.Join(d.path, Name(l.Digest)) }

// Load returns the index of a layer, or nil if there is no usable one.
func (d *Dir) Load(l registry.Layer) *index.Index {
	idx, err := read(d.file(l), l)
	if err == nil {
		now := time.Now()
		_ = os.Chtimes(d.file(l), now, now) // prune removes the least recently loaded files first
		return idx
	}
	if !errors.Is(err, fs.ErrNotExist) {
		d.Remove(l, err.Error())
	}
	return nil
}

var errOtherLayer = errors.New("it belongs to another layer")

func read(path string, l registry.Layer) (*index.Index, error) {
	// Lstat comes first because opening a fifo would wait for a writer.
	fi, err := os.Lstat(path)
	switch {
	case err != nil:
		return nil, err
	case !fi.Mode().IsRegular():
		return nil, errors.New("it is not a regular file")
	case fi.Size() > l.Size/maxFilePart+maxFileFree:
		return nil, errors.New("it is too large for an index of this layer")
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	idx, err := index.LoadWithin(f, memoryFree+l.Size)
	if err != nil {
		return nil, err
	}
	if idx.Digest != l.Digest.String() || idx.DiffID != l.DiffID.String() || idx.Size != l.Size {
		return nil, errOtherLayer
	}
	return idx, nil
}

// Remove removes an unusable index and logs the reason.
func (d *Dir) Remove(l registry.Layer, why string) {
	d.log.Warn("index of a layer dropped", "digest", l.Digest.String(), "why", why)
	if err := os.Remove(d.file(l)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		d.log.Warn("index of a layer could not be removed", "digest", l.Digest.String(), "err", err)
	}
}

// Save writes the index that was recorded for a verified layer with tar bytes
// of tar. It does nothing for a small layer.
func (d *Dir) Save(l registry.Layer, rec *index.Recorder, tar int64) {
	if tar < minTar {
		return
	}
	if err := d.write(l, rec, tar); err != nil {
		d.log.Warn("index of a layer not kept", "digest", l.Digest.String(), "err", err)
	}
}

func (d *Dir) write(l registry.Layer, rec *index.Recorder, tar int64) error {
	idx, err := rec.Index(index.Blob{Digest: l.Digest.String(), DiffID: l.DiffID.String(), Size: l.Size, Out: tar})
	if err != nil {
		return err
	}
	err = disk.Replace(d.file(l), disk.Options{Mode: 0o644, Temp: tempPrefix}, func(f *os.File) error { return idx.Save(f) })
	if err != nil {
		return err
	}
	return d.prune(maxDir)
}

// prune removes the least recently used indexes until the others take at most
// the given number of bytes. It also removes the temporary files of dead
// processes.
func (d *Dir) prune(most int64) error {
	names, err := os.ReadDir(d.path)
	if err != nil {
		return err
	}
	var have []fs.FileInfo
	var sum int64
	for _, n := range names {
		fi, err := n.Info()
		temp := strings.HasPrefix(n.Name(), tempPrefix)
		if err != nil || !fi.Mode().IsRegular() || !temp && filepath.Ext(n.Name()) != suffix {
			continue
		}
		if temp {
			if time.Since(fi.ModTime()) > stage.KeepDead {
				err = os.Remove(filepath.Join(d.path, n.Name()))
			}
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			continue
		}
		have, sum = append(have, fi), sum+fi.Size()
	}
	slices.SortFunc(have, func(a, b fs.FileInfo) int { return cmp.Compare(a.ModTime().UnixNano(), b.ModTime().UnixNano()) })
	for _, fi := range have {
		if sum <= most {
			break
		}
		if err := os.Remove(filepath.Join(d.path, fi.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		sum -= fi.Size()
	}
	return nil
}
