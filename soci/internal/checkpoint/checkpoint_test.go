package checkpoint

import (
	"crypto/sha256"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/penstock/penstock/internal/disk"
	"github.com/penstock/penstock/soci/internal/inflate"
	"github.com/penstock/penstock/soci/internal/registry"
)

func testLayer() registry.Layer {
	return registry.Layer{
		Descriptor: ocispec.Descriptor{Digest: digest.FromString("blob"), Size: 1000},
		DiffID:     digest.FromString("tar"),
	}
}

func testState() *State {
	l := testLayer()
	return &State{
		Digest: l.Digest.String(), DiffID: l.DiffID.String(), Size: l.Size, Format: inflate.None,
		Point: Point{Bits: 80, Out: 10}, Received: 20, Tar: 10,
	}
}

// TestFileRoundTrip checks that a saved state is found again, and only for its
// layer.
func TestFileRoundTrip(t *testing.T) {
	if disk.BootID() == "" {
		t.Skip("needs a boot ID: checkpoints belong to the running system")
	}
	path := filepath.Join(t.TempDir(), "part")
	if err := NewFile(path, 1, 1<<20).Save(testState()); err != nil {
		t.Fatal(err)
	}
	f := NewFile(path, 1, 1<<20)
	f.Open(testLayer())
	if s := f.Resume(); s == nil || s.Tar != 10 || s.Received != 20 {
		t.Errorf("resume from %+v", s)
	}
	if f.Finished() != nil || !f.Exists() || !Usable(path) {
		t.Error("the file is not taken for a usable checkpoint of an unfinished layer")
	}
	other := testLayer()
	other.Size++
	f = NewFile(path, 1, 1<<20)
	if f.Open(other); f.Resume() != nil {
		t.Error("resumes the layer of another blob")
	}
	f = NewFile(path, -1, 1<<20)
	if f.Open(testLayer()); f.Resume() != nil {
		t.Error("resumes although checkpoints are off")
	}
	if f.Drop(); f.Exists() || Usable(path) {
		t.Error("the file exists after Drop")
	}
}

// TestFileDamage checks that a changed file is ignored.
func TestFileDamage(t *testing.T) {
	path := filepath.Join(t.TempDir(), "part")
	if err := NewFile(path, 1, 1<<20).Save(testState()); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := range data {
		changed := append([]byte(nil), data...)
		changed[i] ^= 1
		if err := os.WriteFile(path, changed, 0o600); err != nil {
			t.Fatal(err)
		}
		f := NewFile(path, 1, 1<<20)
		if f.Open(testLayer()); f.Resume() != nil || Usable(path) {
			t.Fatalf("byte %d changed: still usable", i)
		}
	}
}

// TestStateCheck lists states that do not fit a layer.
func TestStateCheck(t *testing.T) {
	for name, change := range map[string]func(*State){
		"version":               func(s *State) { s.Version++ },
		"boot":                  func(s *State) { s.Boot = "b" },
		"digest":                func(s *State) { s.Digest = s.DiffID },
		"point behind received": func(s *State) { s.Point.Bits = 8 * (s.Received + 1) },
		"received beyond size":  func(s *State) { s.Received = s.Size + 1 },
		"point behind tar":      func(s *State) { s.Point.Out = s.Tar + 1 },
		"negative offset":       func(s *State) { s.Point.Bits = -1 },
		"zstd inside a frame":   func(s *State) { s.Format = inflate.Zstd },
		"plain, offsets differ": func(s *State) { s.Point.Bits++ },
	} {
		s := testState()
		s.Version, s.Boot = version, "a"
		if err := s.check(testLayer(), "a"); err != nil {
			t.Fatal(err)
		}
		if change(s); s.check(testLayer(), "a") == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// TestNilFile checks that a nil File keeps nothing.
func TestNilFile(t *testing.T) {
	var f *File
	if f.Resume() != nil || f.Finished() != nil || f.Exists() || f.Finish(testLayer(), nil, nil) != nil {
		t.Error("a nil File holds something")
	}
	f.Drop()
}

// TestHashState checks that a digest continues from a saved state.
func TestHashState(t *testing.T) {
	h := sha256.New()
	h.Write([]byte("ab"))
	state, err := AppendHash(nil, h)
	if err != nil {
		t.Fatal(err)
	}
	resumed := sha256.New()
	if err := RestoreHash(resumed, state); err != nil {
		t.Fatal(err)
	}
	resumed.Write([]byte("c"))
	if got, want := digest.NewDigest(digest.SHA256, resumed), digest.FromString("abc"); got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if RestoreHash(resumed, []byte("bad")) == nil {
		t.Error("a bad state was accepted")
	}
}
