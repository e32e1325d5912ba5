package tartest

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/penstock/penstock/soci/internal/tarfile"
)

// Blocks is a BlockReader of Data in blocks of Size bytes. A released block is
// overwritten.
type Blocks struct {
	Data []byte
	Size int
	held atomic.Int64
}

// Read fails: a BlockReader must be read by NextBlock.
func (b *Blocks) Read([]byte) (int, error) { return 0, errors.New("Read called on a BlockReader") }

// NextBlock implements tarfile.BlockReader.
func (b *Blocks) NextBlock(context.Context) (tarfile.Block, error) {
	if len(b.Data) == 0 {
		return tarfile.Block{}, io.EOF
	}
	n := min(b.Size, len(b.Data))
	p := bytes.Clone(b.Data[:n])
	b.Data = b.Data[n:]
	b.held.Add(1)
	return tarfile.Block{Data: p, Release: func() { clear(p); b.held.Add(-1) }}, nil
}

// Held returns the number of blocks that are not released.
func (b *Blocks) Held() int64 { return b.held.Load() }

// CountEntries reads the headers of an archive.
func CountEntries(ctx context.Context, data []byte) (int, error) {
	r := tarfile.NewReader(&Blocks{Data: data, Size: len(data)}, tarfile.Options{})
	defer r.Close()
	for n := 0; ; n++ {
		if _, err := r.Next(ctx); err != nil {
			if err == io.EOF {
				err = nil
			}
			return n, err
		}
	}
}

// entry is an entry of an archive with its content.
type entry struct {
	tarfile.Header
	content string
}

// largest is the size up to which content is compared, in bytes.
const largest = 1 << 20

// read reads an archive with package tarfile, in blocks of n bytes.
func read(ctx context.Context, data []byte, n int) ([]entry, error) {
	r := tarfile.NewReader(&Blocks{Data: data, Size: n}, tarfile.Options{})
	defer r.Close()
	var out []entry
	for {
		h, err := r.Next(ctx)
		if err == io.EOF {
			return out, nil
		}
		if err != nil {
			return out, err
		}
		e := entry{Header: *h}
		var body []byte
		if h.IsRegular() && h.Size <= largest {
			body = make([]byte, h.Size)
		}
		extents := h.Extents
		if !h.Sparse {
			extents = []tarfile.Extent{{Len: h.Stored}}
		}
		for _, x := range extents {
			for x.Len > 0 {
				b, _, err := r.Content(ctx, x.Len)
				if err != nil {
					return out, err
				}
				if body != nil {
					copy(body[x.Off:], b)
				}
				x.Off, x.Len = x.Off+int64(len(b)), x.Len-int64(len(b))
			}
		}
		e.content = string(body)
		out = append(out, e)
	}
}

// readStandard reads an archive with the standard library.
func readStandard(data []byte) ([]entry, error) {
	r := tar.NewReader(bytes.NewReader(data))
	var out []entry
	for {
		h, err := r.Next()
		if err == io.EOF {
			return out, nil
		}
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) {
			return out, err
		}
		if h.Typeflag == tar.TypeXGlobalHeader {
			return out, errors.New("archive/tar does not apply global headers")
		}
		e := entry{Header: tarfile.Header{
			Name: h.Name, Link: h.Linkname, Type: h.Typeflag, Mode: h.Mode,
			UID: int64(h.Uid), GID: int64(h.Gid), Size: h.Size, Mtime: timeOf(h.ModTime),
		}}
		if e.Type == tar.TypeChar || e.Type == tar.TypeBlock {
			e.Major, e.Minor = h.Devmajor, h.Devminor
		}
		if e.IsRegular() {
			if h.Size <= largest {
				body, err := io.ReadAll(r)
				if err != nil {
					return out, err
				}
				e.content = string(body)
			}
		} else if !e.hasContent() {
			e.Size = 0
		}
		out = append(out, e)
	}
}

// hasContent reports whether the type of e allows content.
func (e *entry) hasContent() bool {
	switch e.Type {
	case tar.TypeLink, tar.TypeSymlink, tar.TypeChar, tar.TypeBlock, tar.TypeDir, tar.TypeFifo:
		return false
	}
	return true
}

func timeOf(t time.Time) tarfile.Time {
	return tarfile.Time{Sec: t.Unix(), Nsec: int64(t.Nanosecond())}
}

// line lists the properties that the two readers must agree about.
func (e *entry) line() string {
	kind := e.Type
	if kind == tarfile.TypeFileV7 || kind == tarfile.TypeGNUSparse {
		kind = tarfile.TypeFile
	}
	content := e.content
	if len(content) > 100 {
		content = fmt.Sprintf("sha256 %x", sha256.Sum256([]byte(content)))
	}
	return fmt.Sprintf("%q -> %q %q %o %d:%d %d bytes %v %d,%d %q", e.Name, e.Link, kind, e.Mode, e.UID, e.GID, e.Size,
		e.Mtime, e.Major, e.Minor, content)
}

// Agree fails the test if tarfile and archive/tar both accept an archive and
// read it differently, except where they differ on purpose.
func Agree(t *testing.T, data []byte) {
	t.Helper()
	want, refErr := readStandard(data)
	for _, n := range []int{tarfile.BlockSize, 700, 1 << 20} {
		got, err := read(t.Context(), data, n)
		if err != nil && !errors.Is(err, tarfile.ErrFormat) && !errors.Is(err, tarfile.ErrLimit) {
			t.Fatalf("unexpected kind of error: %v", err)
		}
		if err != nil || refErr != nil {
			continue
		}
		for i := range max(len(got), len(want)) {
			var a, b string
			if i < len(got) {
				if differs(&got[i], i, want) {
					return
				}
				a = got[i].line()
			}
			if i < len(want) {
				b = want[i].line()
			}
			if a != b {
				t.Fatalf("blocks of %d, entry %d\ngot  %s\nwant %s", n, i, a, b)
			}
		}
	}
}

// differs reports whether the readers read entry i differently on purpose.
func differs(e *entry, i int, want []entry) bool {
	switch {
	case e.Type == tarfile.TypeDir && strings.HasSuffix(e.Name, "/") && i < len(want) && want[i].Type != tarfile.TypeDir:
		return true // a file whose name ends in a slash is a directory, as for GNU tar
	case e.Mtime.Nsec != 0 && i < len(want) && want[i].Mtime != e.Mtime:
		return e.Mtime.Sec < 0 // negative fractions such as -0.5
	case !e.hasContent() || e.IsRegular():
		return false
	}
	return true // unknown types
}
