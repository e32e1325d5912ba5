package main

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/penstock/penstock/benchmarks/internal/bench"
)

// source names the files of a layer on this machine and their place in the image.
type source struct {
	root   string   // folder on this machine
	prefix string   // in the image
	only   []string // paths below root; all if nil
	cut    int64    // bytes of each file at most; all if 0
}

// pack writes one layer for each element of layers into dir, by the compressor that
// builders written in Go use, and loads the image.
func pack(ctx context.Context, dir string, layers [][]source) (*image, error) {
	img := &image{}
	for i, sources := range layers {
		l, err := packLayer(ctx, filepath.Join(dir, fmt.Sprintf("layer%d.tar.gz", i)), sources)
		if err != nil {
			return nil, err
		}
		img.layers = append(img.layers, l)
	}
	return img, img.load()
}

func packLayer(ctx context.Context, out string, sources []source) (_ bench.Layer, err error) {
	f, err := os.Create(out)
	if err != nil {
		return bench.Layer{}, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	blob, diff := sha256.New(), sha256.New()
	zw := gzip.NewWriter(io.MultiWriter(f, blob))
	p := &packer{tw: tar.NewWriter(io.MultiWriter(zw, diff)), seen: map[string]bool{}}
	for _, s := range sources {
		if err := p.add(ctx, s); err != nil {
			return bench.Layer{}, err
		}
	}
	if err := errors.Join(p.tw.Close(), zw.Close()); err != nil {
		return bench.Layer{}, err
	}
	st, err := f.Stat()
	if err != nil {
		return bench.Layer{}, err
	}
	return bench.Layer{Path: out, Digest: digest.NewDigest(digest.SHA256, blob), DiffID: digest.NewDigest(digest.SHA256, diff), Size: st.Size()}, nil
}

type packer struct {
	tw   *tar.Writer
	seen map[string]bool // entries of this layer
}

func (p *packer) add(ctx context.Context, s source) error {
	if s.only != nil {
		for _, rel := range s.only {
			if err := errors.Join(ctx.Err(), p.entry(s, rel)); err != nil {
				return err
			}
		}
		return nil
	}
	return filepath.WalkDir(s.root, func(name string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(s.root, name)
		return errors.Join(err, ctx.Err(), p.entry(s, rel))
	})
}

// entry writes a file and the folders above it that this layer does not have yet.
func (p *packer) entry(s source, rel string) error {
	name := path.Join(s.prefix, filepath.ToSlash(rel))
	if name == "." || p.seen[name] {
		return nil
	}
	for at := 0; ; {
		i := strings.IndexByte(name[at:], '/')
		if i < 0 {
			break
		}
		at += i
		if dir := name[:at]; !p.seen[dir] {
			p.seen[dir] = true
			if err := p.tw.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755}); err != nil {
				return err
			}
		}
		at++
	}
	p.seen[name] = true
	return p.write(filepath.Join(s.root, rel), name, s.cut)
}

func (p *packer) write(from, name string, cut int64) error {
	info, err := os.Lstat(from)
	if err != nil {
		return err
	}
	link := ""
	if info.Mode()&fs.ModeSymlink != 0 {
		if link, err = os.Readlink(from); err != nil {
			return err
		}
	}
	h, err := tar.FileInfoHeader(info, link)
	if err != nil {
		return err
	}
	h.Name, h.Format = name, tar.FormatPAX
	if info.IsDir() {
		h.Name += "/"
	}
	if cut > 0 {
		h.Size = min(h.Size, cut)
	}
	if err := p.tw.WriteHeader(h); err != nil || !info.Mode().IsRegular() {
		return err
	}
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.CopyN(p.tw, f, h.Size)
	return err
}
