package untar

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/penstock/penstock/soci/internal/tarfile/tartest"
)

func (s specimen) bytes(t testing.TB) []byte {
	t.Helper()
	if s.in == nil {
		return []byte(s.raw)
	}
	return archive(t, s.in...)
}

// TestAdversarial extracts the corpus. Each archive either fails with the named
// error or leaves exactly the listed tree, and nothing outside is touched. It
// runs with openat2 and without, on a stream and on blocks of awkward sizes.
func TestAdversarial(t *testing.T) {
	seen := map[string]bool{}
	for _, s := range corpus {
		if seen[s.name] || s.attacks == "" {
			t.Errorf("%q: a name of its own, and what it attacks", s.name)
		}
		seen[s.name] = true
		data := s.bytes(t)
		for _, way := range []struct {
			walk bool
			n    int // bytes of a block, or 0 for a stream
		}{{}, {walk: true}, {n: 512}, {n: 1000}} {
			t.Run(fmt.Sprintf("%s/walk=%v/%d", s.name, way.walk, way.n), func(t *testing.T) {
				x := newTB(t)
				x.walk, x.blocks = way.walk, way.n
				l, err := x.extractBytes(data, s.limits())
				if err == nil {
					err = l.Settle()
				}
				x.outsideUntouched()
				s.judge(t, l, err)
			})
		}
	}
	t.Logf("%d archives", len(corpus))
}

func (s specimen) limits() Limits {
	if s.err == ErrLimit && slices.ContainsFunc(limitSpecimens, func(o specimen) bool { return o.name == s.name }) {
		return smallLimits
	}
	return DefaultLimits()
}

func (s specimen) judge(t *testing.T, l *Layer, err error) {
	t.Helper()
	if s.err != nil {
		if !errors.Is(err, s.err) {
			t.Fatalf("error %v, want %v", err, s.err)
		}
		if e, ok := errors.AsType[*Error](err); !ok || strings.Contains(err.Error(), "\n") || len(err.Error()) > 500 {
			t.Errorf("error is not one line of an *Error: %v (%T)", err, e)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	if got := listing(t, l.Dir); !slices.Equal(got, s.want) {
		t.Errorf("got  %q\nwant %q", got, s.want)
	}
	checkUsage(t, l)
}

// gnuTar returns the path of GNU tar, or skips the test.
func gnuTar(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("tar")
	if err != nil {
		t.Skip("needs GNU tar: ", err)
	}
	out, err := exec.CommandContext(t.Context(), path, "--version").Output()
	if err != nil || !bytes.Contains(out, []byte("GNU tar")) {
		t.Skip("needs GNU tar, not another one")
	}
	return path
}

// untarGNU extracts an archive with GNU tar and keeps all metadata that tar can
// keep. It ignores the warning about a missing end of the archive.
func untarGNU(ctx context.Context, tar, archive, dir string, more ...string) error {
	args := append([]string{"-xpf", archive, "-C", dir, "--numeric-owner", "--xattrs", "--xattrs-include=*"}, more...)
	out, err := exec.CommandContext(ctx, tar, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("tar: %w: %s", err, out)
	}
	return nil
}

// TestAdversarialEqualsTar checks that the result equals GNU tar's in mode,
// owner, times, attributes, links and content, where GNU tar has a sane result.
func TestAdversarialEqualsTar(t *testing.T) {
	tar := gnuTar(t)
	compared := 0
	for _, s := range corpus {
		if !s.tar {
			continue
		}
		compared++
		t.Run(s.name, func(t *testing.T) {
			x := newTB(t)
			data := s.bytes(t)
			l, err := x.extractBytes(data, s.limits())
			if err != nil {
				t.Fatal(err)
			}
			theirs := t.TempDir()
			t.Cleanup(func() { unlockAll(theirs) })
			file := x.base + "/a.tar"
			if err := os.WriteFile(file, data, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := untarGNU(t.Context(), tar, file, theirs); err != nil {
				t.Fatal(err)
			}
			equalTrees(t, l.Dir, theirs, implicit(l))
		})
	}
	t.Logf("%d archives compared", compared)
}

// TestReaderAgrees compares the reader with archive/tar on all archives of the
// tests here.
func TestReaderAgrees(t *testing.T) {
	for _, s := range slices.Concat(stacks, linkedStacks) {
		for _, l := range s.layers {
			tartest.Agree(t, archive(t, l...))
		}
	}
	for _, s := range corpus {
		t.Run(s.name, func(t *testing.T) { tartest.Agree(t, s.bytes(t)) })
	}
}
