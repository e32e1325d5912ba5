package soci

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

// IndexName is the name of a layer's file in [Options].IndexDir: whoever copies that
// file to another machine gives it the index. The digest is that of the blob.
func IndexName(blob digest.Digest) string {
	return blob.Algorithm().String() + "-" + blob.Encoded() + indexSuffix
}

const (
	indexSuffix = ".layeridx"
	// maxIndexDir bounds what a directory of indexes holds: those of 2 TB of layers.
	maxIndexDir = 1 << 30 // bytes
	// An index takes about a thousandth of its blob; a file of more than a fiftieth, and
	// of what an empty one has, is none that we have written.
	indexPart = 50
	indexFree = 64 << 10 // bytes
	// What one holds in memory: a layer that is nearly all zeros has a history of 32 KiB
	// for each 8 MiB of tar, the others far less.
	indexMemory = 16 << 20 // bytes, and as many as the blob has
	// minIndexed is the size of a tar that has more than one span.
	minIndexed = 2 * index.DefaultSpan
)

// indexes is a directory of learned indexes. What a file says is a hint: package
// inflate compares it with what it decodes, and the digests hold either way. So
// whoever may write to the directory can cost us time, but no byte.
type indexes struct {
	dir string
	log *slog.Logger
}

func (x *indexes) path(l registry.Layer) string { return filepath.Join(x.dir, IndexName(l.Digest)) }

// load returns the index of a layer; nil if there is none. One that is damaged, of another
// version or of another layer is removed.
func (x *indexes) load(l registry.Layer) *index.Index {
	idx, err := readIndex(x.path(l), l)
	if err == nil {
		now := time.Now()
		_ = os.Chtimes(x.path(l), now, now) // it was of use: see prune
		return idx
	}
	if !errors.Is(err, fs.ErrNotExist) {
		x.remove(l, err.Error())
	}
	return nil
}

var errOtherLayer = errors.New("it belongs to another layer")

func readIndex(path string, l registry.Layer) (*index.Index, error) {
	// Looked at before it is opened: to open a fifo waits for whoever writes to it.
	fi, err := os.Lstat(path)
	switch {
	case err != nil:
		return nil, err
	case !fi.Mode().IsRegular():
		return nil, errors.New("it is not a regular file")
	case fi.Size() > l.Size/indexPart+indexFree:
		return nil, errors.New("it is far larger than an index")
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	idx, err := index.LoadWithin(f, indexMemory+l.Size)
	if err != nil {
		return nil, err
	}
	if idx.Digest != l.Digest.String() || idx.DiffID != l.DiffID.String() || idx.Size != l.Size {
		return nil, errOtherLayer
	}
	return idx, nil
}

// remove takes an index away that is of no use.
func (x *indexes) remove(l registry.Layer, why string) {
	x.log.Warn("index of a layer dropped", "digest", l.Digest.String(), "why", why)
	if err := os.Remove(x.path(l)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		x.log.Warn("it could not be removed", "err", err)
	}
}

// save keeps what was recorded of a layer that has been verified. It may fail: the pull
// has what it wants.
func (x *indexes) save(l registry.Layer, rec *index.Recorder, out int64) {
	if out < minIndexed {
		return
	}
	if err := x.write(l, rec, out); err != nil {
		x.log.Warn("index of a layer not kept", "digest", l.Digest.String(), "err", err)
	}
}

func (x *indexes) write(l registry.Layer, rec *index.Recorder, out int64) error {
	idx, err := rec.Index(index.Blob{Digest: l.Digest.String(), DiffID: l.DiffID.String(), Size: l.Size, Out: out})
	if err != nil {
		return err
	}
	err = disk.Replace(x.path(l), disk.Options{Mode: 0o644, Temp: tempIndex}, func(f *os.File) error { return idx.Save(f) })
	if err != nil {
		return err
	}
	return x.prune(maxIndexDir)
}

const tempIndex = ".index-"

// prune removes the indexes that were of no use for the longest time, until the others
// take no more than so many bytes, and what a killed process left of one.
func (x *indexes) prune(most int64) error {
	names, err := os.ReadDir(x.dir)
	if err != nil {
		return err
	}
	var have []fs.FileInfo
	var sum int64
	for _, n := range names {
		fi, err := n.Info()
		temp := strings.HasPrefix(n.Name(), tempIndex)
		if err != nil || !fi.Mode().IsRegular() || !temp && filepath.Ext(n.Name()) != indexSuffix {
			continue
		}
		if temp {
			if time.Since(fi.ModTime()) > stage.KeepDead {
				err = os.Remove(filepath.Join(x.dir, n.Name()))
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
		if err := os.Remove(filepath.Join(x.dir, fi.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		sum -= fi.Size()
	}
	return nil
}
