package testorigin

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync/atomic"
)

// A content is an immutable sequence of bytes made of segments. Objects, blobs
// and upload parts share segments, so that completing a multipart upload or
// copying an object moves no data.
//
// A content and its backings are reference counted, so that a file in the
// scratch folder exists exactly as long as a version or a running GET needs it.
type content struct {
	segs []segment
	size int64
	refs atomic.Int64
}

// segment is the span [off, off+n) of a backing.
type segment struct {
	b      *backing
	off, n int64
	xor    byte // each byte is sent XORed with it, so that a new version needs no disk space
}

// backing holds bytes in memory or in a file.
type backing struct {
	mem   []byte
	path  string      // "" for memory
	ident os.FileInfo // the file at the time of PutFile; nil for files that the origin wrote itself
	owned bool        // remove the file with the last reference
	refs  atomic.Int64
}

var errFileChanged = errors.New("the file behind the object was replaced or resized since PutFile; put it again")

func memContent(p []byte) *content {
	return newContent([]segment{{b: &backing{mem: p}, n: int64(len(p))}})
}

// newContent takes one reference on every segment's backing; the caller owns
// the content's first reference.
func newContent(segs []segment) *content {
	c := &content{segs: segs}
	for _, s := range segs {
		s.b.refs.Add(1)
		c.size += s.n
	}
	c.refs.Store(1)
	return c
}

// fileContent refers to the file at path without copying it.
func fileContent(path string, owned bool) (*content, error) {
	fi, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() {
		return nil, fmt.Errorf("testorigin: %s is not a regular file", path)
	}
	b := &backing{path: path, owned: owned}
	if !owned {
		b.ident = fi
	}
	return newContent([]segment{{b: b, n: fi.Size()}}), nil
}

func (c *content) retain() *content {
	c.refs.Add(1)
	return c
}

func (c *content) release() {
	if c.refs.Add(-1) > 0 {
		return
	}
	for _, s := range c.segs {
		if s.b.refs.Add(-1) == 0 && s.b.owned {
			_ = os.Remove(s.b.path)
		}
	}
}

// slice returns the segments of [off, off+n).
func (c *content) slice(off, n int64) []segment {
	var out []segment
	for _, s := range c.segs {
		if off >= s.n {
			off -= s.n
			continue
		}
		if n <= 0 {
			break
		}
		m := min(s.n-off, n)
		out = append(out, segment{b: s.b, off: s.off + off, n: m, xor: s.xor})
		off, n = 0, n-m
	}
	return out
}

// scrambled returns a content of the same size in which every byte differs.
func (c *content) scrambled() *content {
	segs := slices.Clone(c.segs)
	for i := range segs {
		segs[i].xor ^= 0xff
	}
	return newContent(segs)
}

// open returns a reader of the segment. If possible it is an *io.LimitedReader
// over the file itself, which the kernel can send without copying.
func (s segment) open() (io.Reader, io.Closer, error) {
	var r io.Reader
	var closer io.Closer = io.NopCloser(nil)
	if s.b.path == "" {
		r = bytes.NewReader(s.b.mem[s.off : s.off+s.n])
	} else {
		f, err := os.Open(s.b.path)
		if err != nil {
			return nil, nil, err
		}
		if s.b.ident != nil { // check again, now that the open file cannot be replaced any more
			fi, err := f.Stat()
			if err == nil {
				err = s.b.check(fi)
			}
			if err != nil {
				_ = f.Close()
				return nil, nil, err
			}
		}
		if _, err := f.Seek(s.off, io.SeekStart); err != nil {
			_ = f.Close()
			return nil, nil, err
		}
		r, closer = &io.LimitedReader{R: f, N: s.n}, f
	}
	if s.xor != 0 {
		r = xorReader{r, s.xor}
	}
	return r, closer, nil
}

// intact returns an error if a file was replaced since it was put, so that the
// whole answer can be an error.
func (c *content) intact() error {
	for _, s := range c.segs {
		if s.b.ident == nil {
			continue
		}
		fi, err := os.Stat(s.b.path)
		if err != nil {
			return err
		}
		if err := s.b.check(fi); err != nil {
			return err
		}
	}
	return nil
}

// check returns an error if the file was replaced since it was put.
func (b *backing) check(fi os.FileInfo) error {
	if !os.SameFile(fi, b.ident) || fi.Size() != b.ident.Size() {
		return fmt.Errorf("testorigin: %s: %w", b.path, errFileChanged)
	}
	return nil
}

type xorReader struct {
	r io.Reader
	x byte
}

func (x xorReader) Read(p []byte) (int, error) {
	n, err := x.r.Read(p)
	for i := range p[:n] {
		p[i] ^= x.x
	}
	return n, err
}

// copyTo writes [off, off+n) of c to w and returns how many bytes w took.
func (c *content) copyTo(w io.Writer, off, n int64) (int64, error) {
	var done int64
	for _, s := range c.slice(off, n) {
		r, closer, err := s.open()
		if err != nil {
			return done, err
		}
		m, err := io.Copy(w, r)
		_ = closer.Close()
		done += m
		if err == nil && m < s.n {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return done, err
		}
	}
	return done, nil
}

// bytesAt returns [off, off+n) of c, for the few places that need a handful of
// bytes in memory.
func (c *content) bytesAt(off, n int64) ([]byte, error) {
	var buf bytes.Buffer
	_, err := c.copyTo(&buf, off, n)
	return buf.Bytes(), err
}
