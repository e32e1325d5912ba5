package main

import (
	"archive/tar"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/gzip"

	"github.com/penstock/penstock/internal/crc"
)

// tree is an image with all layers applied, the reference for every client's result.
type tree map[string]node // by path without a leading slash

type node struct {
	mode fs.FileMode // type bits only
	size int64
	sum  uint32 // of a regular file
	link string // of a symlink
}

const block = 4096 // least bytes of a file on tmpfs and on ext4

// volume is the disk space that a layer's entries need.
type volume struct {
	tar     int64 // bytes of the archive
	blocks  int64 // bytes of its files, in whole blocks
	entries int
}

// apply reads a compressed layer and applies it to the tree.
func (t tree) apply(layer string) (v volume, err error) {
	f, err := os.Open(layer)
	if err != nil {
		return v, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	zr, err := gzip.NewReader(f)
	if err != nil {
		return v, fmt.Errorf("%s: %w", layer, err)
	}
	in := &counter{r: zr}
	tr := tar.NewReader(in)
	for {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return v, fmt.Errorf("%s: %w", layer, err)
		}
		n, err := t.add(h, tr)
		if err != nil {
			return v, fmt.Errorf("%s: %s: %w", layer, h.Name, err)
		}
		v.blocks += n
		v.entries++
	}
	_, err = io.Copy(io.Discard, in) // the padding
	v.tar = in.n
	return v, err
}

// add applies one entry and returns the bytes that it takes on a disk.
func (t tree) add(h *tar.Header, body io.Reader) (int64, error) {
	name := strings.TrimPrefix(path.Clean("/"+h.Name), "/")
	if name == "" {
		return 0, nil
	}
	dir, base := path.Split(name)
	dir = path.Clean("/" + dir)[1:]
	if base == opaque {
		t.remove(dir)
		return 0, nil
	}
	if hidden, ok := strings.CutPrefix(base, whiteout); ok {
		full := path.Join(dir, hidden)
		t.remove(full)
		delete(t, full)
		return 0, nil
	}
	for p := dir; p != ""; p = path.Clean("/" + path.Dir(p))[1:] {
		if _, ok := t[p]; ok {
			break
		}
		t[p] = node{mode: fs.ModeDir}
	}
	old, had := t[name]
	if h.Typeflag == tar.TypeLink {
		target, ok := t[path.Clean("/" + h.Linkname)[1:]]
		if !ok {
			return 0, fmt.Errorf("link to %q, which is not there", h.Linkname)
		}
		t[name] = target
		return 0, nil
	}
	n := node{mode: h.FileInfo().Mode().Type(), link: h.Linkname}
	if had && old.mode.IsDir() && !n.mode.IsDir() {
		t.remove(name)
	}
	size := int64(0)
	if n.mode.IsRegular() {
		var err error
		if n.size, n.sum, size, err = sumOf(body, sparse(h)); err != nil {
			return 0, err
		}
	}
	t[name] = n
	return size, nil
}

// Whiteouts: marks of a layer that removes entries of the layers below.
const (
	whiteout = ".wh."
	opaque   = ".wh..wh..opq"
)

func sparse(h *tar.Header) bool {
	for k := range h.PAXRecords {
		if strings.HasPrefix(k, "GNU.sparse.") {
			return true
		}
	}
	return h.Typeflag == tar.TypeGNUSparse
}

// remove deletes everything below dir.
func (t tree) remove(dir string) {
	for p := range t {
		if dir == "" || strings.HasPrefix(p, dir+"/") {
			delete(t, p)
		}
	}
}

// sumOf reads a file: its bytes, their sum, and their size in blocks; holes are
// whole blocks of zeros.
func sumOf(r io.Reader, holes bool) (size int64, sum uint32, disk int64, err error) {
	buf := make([]byte, 64*block)
	for {
		n, err := io.ReadFull(r, buf)
		size += int64(n)
		sum = crc32.Update(sum, crc.CastagnoliTable, buf[:n])
		for i := 0; i < n; i += block {
			if part := buf[i:min(i+block, n)]; !holes || strings.Trim(string(part), "\x00") != "" {
				disk += block
			}
		}
		switch err {
		case nil:
		case io.EOF, io.ErrUnexpectedEOF:
			return size, sum, disk, nil
		default:
			return size, sum, disk, err
		}
	}
}

// compare describes the first difference between the tree and the directory, or
// returns "".
func (t tree) compare(dir string) string {
	seen, first := 0, ""
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || p == dir {
			return err
		}
		rel, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		seen++
		want, ok := t[rel]
		if !ok {
			first = rel + ": belongs to no layer"
			return fs.SkipAll
		}
		if diff := differs(want, p, d); diff != "" {
			first = rel + ": " + diff
			return fs.SkipAll
		}
		return nil
	})
	switch {
	case err != nil:
		return err.Error()
	case first != "":
		return first
	case seen != len(t):
		return fmt.Sprintf("%d entries instead of %d", seen, len(t))
	}
	return ""
}

func differs(want node, p string, d fs.DirEntry) string {
	if d.Type() != want.mode {
		return fmt.Sprintf("%v instead of %v", d.Type(), want.mode)
	}
	switch {
	case want.mode&fs.ModeSymlink != 0:
		if got, err := os.Readlink(p); err != nil || got != want.link {
			return fmt.Sprintf("link to %q instead of %q", got, want.link)
		}
	case want.mode.IsRegular():
		f, err := os.Open(p)
		if err != nil {
			return err.Error()
		}
		size, sum, _, err := sumOf(f, false)
		if err = errors.Join(err, f.Close()); err != nil {
			return err.Error()
		}
		if size != want.size {
			return fmt.Sprintf("%d bytes instead of %d", size, want.size)
		}
		if sum != want.sum {
			return "other content"
		}
	}
	return ""
}

type counter struct {
	r io.Reader
	n int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}
