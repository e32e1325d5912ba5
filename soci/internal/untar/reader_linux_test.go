package untar

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// pieces hands data over in pieces of n bytes, as a ring of blocks does.
type pieces struct {
	data []byte
	n    int
	out  atomic.Int64 // pieces not released
}

func (p *pieces) Read([]byte) (int, error) { return 0, errors.New("read instead of handed over") }

func (p *pieces) NextBlock(context.Context) (Block, error) {
	if len(p.data) == 0 {
		return Block{}, io.EOF
	}
	n := min(p.n, len(p.data))
	b := bytes.Clone(p.data[:n])
	p.data = p.data[n:]
	p.out.Add(1)
	return Block{Data: b, Release: func() { clear(b); p.out.Add(-1) }}, nil
}

// seen is what a reader says of an entry, content included.
type seen struct {
	header
	content string
}

// readAll reads an archive with our reader.
func readAll(ctx context.Context, data []byte, n int) ([]seen, error) {
	src := &pieces{data: data, n: n}
	r := &reader{stream: stream{src: src, flush: func() error { return nil }}}
	defer r.close()
	var out []seen
	for {
		h, err := r.next(ctx)
		if err == io.EOF {
			return out, nil
		}
		if err != nil {
			return out, err
		}
		s := seen{header: *h}
		var body []byte
		if h.isRegular() && h.size <= 1<<20 {
			body = make([]byte, h.size)
		}
		for _, e := range wholeOr(h) {
			for e.n > 0 {
				b, _, err := r.content(ctx, e.n)
				if err != nil {
					return out, err
				}
				if body != nil {
					copy(body[e.off:], b)
				}
				e.off, e.n = e.off+int64(len(b)), e.n-int64(len(b))
			}
		}
		s.content = string(body)
		out = append(out, s)
	}
}

func wholeOr(h *header) []extent {
	if h.sparse {
		return h.extents
	}
	return []extent{{0, h.stored}}
}

// refAll reads an archive with the standard library.
func refAll(data []byte) ([]seen, error) {
	r := tar.NewReader(bytes.NewReader(data))
	var out []seen
	for {
		h, err := r.Next()
		if err == io.EOF {
			return out, nil
		}
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) {
			return out, err
		}
		if h.Typeflag == tar.TypeXGlobalHeader {
			return out, errors.New("it does not apply global headers; GNU tar and we do")
		}
		s := seen{header: header{
			name: h.Name, link: h.Linkname, flag: h.Typeflag, mode: h.Mode,
			uid: int64(h.Uid), gid: int64(h.Gid), size: h.Size, mtime: stampOf(h.ModTime),
		}}
		if s.flag == tar.TypeChar || s.flag == tar.TypeBlock {
			s.major, s.minor = h.Devmajor, h.Devminor
		}
		if s.isRegular() {
			if h.Size <= 1<<20 {
				body, err := io.ReadAll(r)
				if err != nil {
					return out, err
				}
				s.content = string(body)
			}
		} else if !s.hasContent() {
			s.size = 0
		}
		out = append(out, s)
	}
}

func stampOf(t time.Time) stamp { return stamp{t.Unix(), int64(t.Nanosecond())} }

// line is what the two readers must agree about.
func (s seen) line() string {
	flag := s.flag
	if flag == typeFileOld || flag == typeGNUSparse {
		flag = typeFile
	}
	content := s.content
	if len(content) > 100 {
		content = fmt.Sprintf("sha256 %x", sha256.Sum256([]byte(content)))
	}
	return fmt.Sprintf("%q -> %q %q %o %d:%d %d bytes %v %d,%d %q", s.name, s.link, flag, s.mode, s.uid, s.gid, s.size,
		s.mtime, s.major, s.minor, content)
}

// agree compares the readers. What both accept they must read alike. Where they
// differ on purpose, different says why.
func agree(t *testing.T, data []byte) {
	t.Helper()
	want, refErr := refAll(data)
	for _, n := range []int{sector, 700, 1 << 20} {
		got, err := readAll(t.Context(), data, n)
		if err != nil && !errors.Is(err, ErrFormat) && !errors.Is(err, ErrLimit) {
			t.Fatalf("error of no kind: %v", err)
		}
		if err != nil || refErr != nil {
			continue
		}
		for i := range max(len(got), len(want)) {
			var a, b string
			if i < len(got) {
				if different(got[i], i, want) {
					return
				}
				a = got[i].line()
			}
			if i < len(want) {
				b = want[i].line()
			}
			if a != b {
				t.Fatalf("pieces of %d, entry %d\ngot  %s\nwant %s", n, i, a, b)
			}
		}
	}
}

func different(s seen, i int, want []seen) bool {
	switch {
	case s.flag == typeDir && strings.HasSuffix(s.name, "/") && i < len(want) && want[i].flag != typeDir:
		return true // a file whose name ends in a slash: a directory, as for GNU tar
	case s.mtime.nsec != 0 && i < len(want) && want[i].mtime != s.mtime:
		return s.mtime.sec < 0 // -0.5 and the like
	case !s.hasContent() || s.isRegular():
		return false
	}
	return true // unknown types
}

// goldens are archives that other programs wrote.
func goldens(t testing.TB) map[string][]byte {
	t.Helper()
	out := make(map[string][]byte)
	names, err := filepath.Glob(filepath.Join("testdata", "*.tar.gz"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		out[filepath.Base(name)] = gunzip(t, name)
	}
	return out
}

// TestReaderAgrees compares with the standard library on what GNU tar and we wrote.
func TestReaderAgrees(t *testing.T) {
	for name, data := range goldens(t) {
		t.Run(name, func(t *testing.T) { agree(t, data) })
	}
	for _, s := range slices.Concat(stacks, linkedStacks) {
		for _, l := range s.layers {
			agree(t, archive(t, l...))
		}
	}
	for _, s := range corpus {
		t.Run(s.name, func(t *testing.T) { agree(t, s.bytes(t)) })
	}
}

// FuzzReader: no input makes the reader panic, loop, or disagree with the standard
// library about an archive that both can read.
func FuzzReader(f *testing.F) {
	for _, data := range goldens(f) {
		f.Add(data)
	}
	f.Add(archive(f, dir("d"), file("d/f", "x"), symlink("l", "d"), hard("h", "d/f")))
	f.Add(archive(f, ent{name: strings.Repeat("n", 200), body: "x", edit: func(h *tar.Header) { h.Format = tar.FormatGNU; h.Uid = 3_000_000 }}))
	f.Add(archive(f, ent{name: "x", body: "x", pax: map[string]string{"SCHILY.xattr.user.a": "b", "mtime": "12.5"}}))
	for _, s := range corpus {
		if data := s.bytes(f); len(data) < 64<<10 {
			f.Add(data)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		agree(t, data)
		agree(t, summed(data)) // a mutated header rarely has the right checksum
	})
}

// summed gives every block the checksum that it would have as a header.
func summed(data []byte) []byte {
	data = bytes.Clone(data)
	for b := data; len(b) >= sector; b = b[sector:] {
		if !bytes.Equal(b[:sector], zeros[:]) {
			sign(b)
		}
	}
	return data
}

// sign writes the checksum of a header block.
func sign(b []byte) { copy(b[sumOff:], fmt.Sprintf("%06o\x00 ", unsignedSum(b))) }

// TestReaderAllocations: a header costs its strings and nothing else.
func TestReaderAllocations(t *testing.T) {
	var in []ent
	for i := range 1000 {
		in = append(in, ent{name: fmt.Sprint("directory/file-", i), edit: func(h *tar.Header) { h.Format = tar.FormatUSTAR; h.ModTime = time.Unix(1, 0) }})
	}
	data := archive(t, in...)
	got := testing.AllocsPerRun(5, func() {
		if _, err := readHeaders(t.Context(), data); err != nil {
			t.Fatal(err)
		}
	})
	if most := 1100.0; got > most {
		t.Errorf("%v allocations for 1000 entries, at most %v expected", got, most)
	}
}

func readHeaders(ctx context.Context, data []byte) (int, error) {
	r := &reader{stream: stream{src: &pieces{data: data, n: len(data)}, flush: func() error { return nil }}}
	defer r.close()
	for n := 0; ; n++ {
		if _, err := r.next(ctx); err != nil {
			if err == io.EOF {
				err = nil
			}
			return n, err
		}
	}
}

// gunzip reads a compressed file.
func gunzip(t testing.TB, path string) []byte {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
