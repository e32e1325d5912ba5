package untar

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// checkpointTar returns an archive with everything that a state describes:
// directories with modes, whiteouts, links forward and back, sparse and large
// files, duplicate names.
func checkpointTar(t *testing.T) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	add := func(h tar.Header, body string) {
		h.Size, h.ModTime, h.Uid, h.Gid = int64(len(body)), time.Unix(1_700_000_000, 5), os.Geteuid(), os.Getegid()
		h.Format = tar.FormatPAX
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(body)); err != nil {
			t.Fatal(err)
		}
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	large := string(bytes.Repeat([]byte("large file "), 60_000))
	add(tar.Header{Name: "forward", Typeflag: tar.TypeLink, Linkname: "d3/f1"}, "")
	for d := range 12 {
		dir := fmt.Sprintf("d%d", d)
		add(tar.Header{Name: dir + "/", Typeflag: tar.TypeDir, Mode: 0o750}, "")
		for f := range 8 {
			add(tar.Header{Name: fmt.Sprintf("%s/f%d", dir, f)}, large[:rnd.IntN(20_000)])
		}
		add(tar.Header{Name: dir + "/deep/er/implicit"}, "x")
		add(tar.Header{Name: dir + "/link", Typeflag: tar.TypeLink, Linkname: dir + "/f2"}, "")
		add(tar.Header{Name: dir + "/sym", Typeflag: tar.TypeSymlink, Linkname: "/d1/f1", Mode: 0o777}, "")
		add(tar.Header{Name: dir + "/.wh.gone"}, "")
		add(tar.Header{Name: dir + "/fifo", Typeflag: tar.TypeFifo}, "")
		switch d {
		case 4, 8:
			add(tar.Header{Name: "d1/f1"}, dir) // replaces
		case 6:
			add(tar.Header{Name: "large"}, large)
		case 7:
			add(tar.Header{Name: "d2/f3/", Typeflag: tar.TypeDir, Mode: 0o711}, "")
		}
	}
	add(tar.Header{Name: "d0/", Typeflag: tar.TypeDir, Mode: 0o555}, "")
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// stopAfter ends an extraction after a number of entries.
type stopAfter struct {
	at     int64
	state  []byte
	offset int64
	left   int
	void   atomic.Bool
	cancel context.CancelFunc
}

func (s *stopAfter) checkpoints() *Checkpoints {
	return &Checkpoints{
		Due: func(at int64) bool {
			if s.state != nil {
				if s.left--; s.left == 0 {
					s.cancel()
				}
				return false
			}
			return at >= s.at
		},
		Save: func(at int64, state []byte) { s.offset, s.state = at, state; s.void.Store(false) },
		Void: func() { s.void.Store(true) },
	}
}

// TestCheckpoints checks that an extraction that is stopped anywhere and
// resumed from a state yields the same tree as an uninterrupted one, whatever
// was extracted after the state.
func TestCheckpoints(t *testing.T) {
	archive := checkpointTar(t)
	want := filepath.Join(t.TempDir(), "want")
	whole := extractWith(t, archive, want, nil)
	resumed, voided := 0, 0
	for seed := range 24 {
		rnd := rand.New(rand.NewPCG(uint64(seed), 3))
		dir := filepath.Join(t.TempDir(), "dir")
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		s := &stopAfter{at: rnd.Int64N(int64(len(archive)) * 3 / 4), left: 1 + rnd.IntN(40), cancel: cancel}
		_, err := extractCtx(ctx, t, archive, dir, s.checkpoints())
		cancel()
		if err != nil && !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		if err == nil || s.void.Load() {
			voided++
			continue
		}
		// Files that a process may have left after it read wrong bytes.
		for _, name := range []string{"evil", "d0/evil"} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte("evil"), 0o644); err != nil && !errors.Is(err, os.ErrNotExist) {
				t.Fatal(err)
			}
		}
		if err := os.MkdirAll(filepath.Join(dir, "evildir", "below"), 0o755); err != nil {
			t.Fatal(err)
		}
		again := extractWith(t, archive[s.offset:], dir, &Checkpoints{
			Due: func(int64) bool { return false }, Void: func() {}, From: s.state, At: s.offset,
		})
		resumed++
		equalTrees(t, dir, want, implicit(whole))
		a, _ := whole.Save(0)
		b, _ := again.Save(0)
		if whole.Usage().Inodes != again.Usage().Inodes || whole.Entries != again.Entries || len(a) != len(b) {
			t.Errorf("seed %d: %s, want %s", seed, b, a)
		}
	}
	t.Logf("%d gone on with, %d voided or complete", resumed, voided)
	if resumed < 6 || voided == 0 {
		t.Errorf("only %d were gone on with, %d were void", resumed, voided)
	}
}

// TestCheckpointOfAnotherTree checks that a state that does not match the
// directory is refused.
func TestCheckpointOfAnotherTree(t *testing.T) {
	archive := checkpointTar(t)
	dir := filepath.Join(t.TempDir(), "dir")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	s := &stopAfter{at: 100_000, left: 1, cancel: cancel}
	if _, err := extractCtx(ctx, t, archive, dir, s.checkpoints()); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	try := func(state []byte) error {
		_, err := extractCtx(t.Context(), t, archive[s.offset:], dir, &Checkpoints{
			Due: func(int64) bool { return false }, Void: func() {}, From: state, At: s.offset,
		})
		return err
	}
	if err := try([]byte("{}")); err == nil {
		t.Error("an empty state was accepted")
	}
	if err := try(s.state[:len(s.state)/2]); !errors.Is(err, errState) {
		t.Error(err)
	}
	if err := os.Remove(filepath.Join(dir, "d0", "f0")); err != nil {
		t.Fatal(err)
	}
	if err := try(s.state); !errors.Is(err, errState) {
		t.Error(err)
	}
}

// TestCheckpointSize checks that no state exceeds Checkpoints.Max, although a
// state holds full paths of deep directories.
func TestCheckpointSize(t *testing.T) {
	deep := strings.Repeat("d/", 200)
	implicit := 10_000
	if testing.Short() {
		implicit = 3000
	}
	for _, c := range []struct {
		name string
		n    int
		most int64
		one  func(i int) tar.Header
	}{
		{"implicit directories", implicit, 1 << 20, func(i int) tar.Header {
			return tar.Header{Name: fmt.Sprintf("%s%d/f", deep, i), Mode: 0o644}
		}},
		{"whiteouts", 1000, 400 << 10, func(i int) tar.Header {
			return tar.Header{Name: fmt.Sprintf("%s%d/.wh.w", deep, i)}
		}},
		{"opaque directories", 1000, 400 << 10, func(i int) tar.Header {
			return tar.Header{Name: fmt.Sprintf("%s%d/.wh..wh..opq", deep, i)}
		}},
		{"links", 1000, 400 << 10, func(i int) tar.Header {
			return tar.Header{Name: fmt.Sprintf("%s%d", deep, i), Typeflag: tar.TypeLink, Linkname: "later"}
		}},
		{"attributes", 1000, 200 << 10, func(i int) tar.Header {
			return tar.Header{Name: fmt.Sprintf("%d/", i), Typeflag: tar.TypeDir, Mode: 0o755, PAXRecords: map[string]string{
				"SCHILY.xattr.user.x": strings.Repeat("v", 400),
			}}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var buf bytes.Buffer
			w := tar.NewWriter(&buf)
			for i := range c.n {
				h := c.one(i)
				h.Uid, h.Gid = os.Geteuid(), os.Getegid()
				if err := w.WriteHeader(&h); err != nil {
					t.Fatal(err)
				}
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			saved, last, step := 0, int64(0), int64(buf.Len())/20
			extractWith(t, buf.Bytes(), filepath.Join(t.TempDir(), "dir"), &Checkpoints{
				Due: func(at int64) bool { return at >= last+step },
				Save: func(at int64, state []byte) {
					saved, last = saved+1, at
					if int64(len(state)) > c.most {
						t.Errorf("state %d has %d bytes, the bound is %d", saved, len(state), c.most)
					}
				},
				Void: func() {}, Max: c.most,
			})
			if saved == 0 || saved >= 19 {
				t.Errorf("%d states were saved", saved)
			}
		})
	}
}

func extractWith(t *testing.T, archive []byte, dir string, c *Checkpoints) *Layer {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	l, err := extractCtx(t.Context(), t, archive, dir, c)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func extractCtx(ctx context.Context, t *testing.T, archive []byte, dir string, c *Checkpoints) (*Layer, error) {
	t.Helper()
	pool := NewPool(4, 0)
	defer pool.Close()
	return Extract(ctx, bytes.NewReader(archive), dir, Options{Pool: pool, Meter: newMeter(DefaultLimits()), Checkpoints: c})
}
