package soci_test

import (
	"archive/tar"
	"bytes"
	"compress/flate"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/penstock/penstock/soci"
	"github.com/penstock/penstock/soci/internal/inflate"
)

const (
	// giantBytes sets the size of TestGiantLayer's tar; giantDir sets its
	// directory.
	giantBytes = "PENSTOCK_GIANT_BYTES"
	giantDir   = "PENSTOCK_GIANT_DIR"
	// giantPull is the image that the re-executed test binary pulls.
	giantPull = "PENSTOCK_TEST_GIANT_PULL"

	giantMemory = 64 << 20 // the puller's budget
	giantPiece  = 4 << 20  // bytes of a file
)

// giant is a layer that is generated on the fly: compressed pieces of real
// files, repeated many times with headers between them, as one gzip member.
type giant struct {
	pieces [][]byte
	ends   []int64 // end offset of each piece
	tar    int64
	digest digest.Digest
	diffID digest.Digest
}

type giantMaker struct {
	giant
	blob, diff hash.Hash
	sum        uint32
}

// raw adds bytes of the blob that produce no output.
func (g *giantMaker) raw(p []byte) {
	g.blob.Write(p)
	last := int64(0)
	if n := len(g.ends); n > 0 {
		last = g.ends[n-1]
	}
	g.pieces, g.ends = append(g.pieces, p), append(g.ends, last+int64(len(p)))
}

// add adds output, and its compressed form.
func (g *giantMaker) add(p, packed []byte) {
	g.diff.Write(p)
	g.sum = crc32.Update(g.sum, crc32.IEEETable, p)
	g.tar += int64(len(p))
	g.raw(packed)
}

// deflated ends on a byte boundary. Only the last piece of a stream is closed.
func deflated(t *testing.T, p []byte, last bool) []byte {
	t.Helper()
	var buf bytes.Buffer
	w, err := flate.NewWriter(&buf, flate.BestSpeed)
	if err == nil {
		_, err = w.Write(p)
	}
	if err == nil && last {
		err = w.Close()
	} else if err == nil {
		err = w.Flush()
	}
	if err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func newGiant(t *testing.T, size int64) *giant {
	t.Helper()
	source := goTree(t, "cmd/compile")
	var plain, packed [][]byte
	for p := range slices.Chunk(source[:len(source)/giantPiece*giantPiece], giantPiece) {
		plain, packed = append(plain, p), append(packed, deflated(t, p, false))
	}
	g := &giantMaker{blob: sha256.New(), diff: sha256.New()}
	g.raw([]byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255})
	for i := 0; g.tar < size; i++ {
		var head bytes.Buffer
		err := tar.NewWriter(&head).WriteHeader(&tar.Header{
			Name: fmt.Sprintf("copy%d/part%d", i/len(plain), i%len(plain)), Mode: 0o644, Size: giantPiece,
			ModTime: time.Unix(1_700_000_000, 0), Uid: os.Geteuid(), Gid: os.Getegid(),
		})
		if err != nil {
			t.Fatal(err)
		}
		g.add(head.Bytes(), deflated(t, head.Bytes(), false))
		g.add(plain[i%len(plain)], packed[i%len(plain)])
	}
	end := make([]byte, 1024)
	g.add(end, deflated(t, end, true))
	g.raw(binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(nil, g.sum), uint32(g.tar))) //nolint:gosec // G115: modulo 2^32
	g.digest, g.diffID = digest.NewDigest(digest.SHA256, g.blob), digest.NewDigest(digest.SHA256, g.diff)
	return &g.giant
}

func (g *giant) size() int64 { return g.ends[len(g.ends)-1] }

// ReadAt implements io.ReaderAt.
func (g *giant) ReadAt(p []byte, off int64) (n int, err error) {
	i, _ := slices.BinarySearch(g.ends, off+1)
	for ; n < len(p) && i < len(g.ends); i++ {
		begin := g.ends[i] - int64(len(g.pieces[i]))
		n += copy(p[n:], g.pieces[i][off+int64(n)-begin:])
	}
	if n < len(p) {
		err = io.EOF
	}
	return n, err
}

// serve starts a registry with an image of this layer. sent counts the layer's
// bytes.
func (g *giant) serve(t *testing.T, sent *atomic.Int64) (ref string) {
	t.Helper()
	cfg := ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: strings.TrimPrefix(here, "linux/")}}
	cfg.RootFS = ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{g.diffID}}
	config, err := json.Marshal(cfg)
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := json.Marshal(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: digest.FromBytes(config), Size: int64(len(config))},
		Layers: []ocispec.Descriptor{{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: g.digest, Size: g.size()}},
	})
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v2/", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("GET /v2/giant/manifests/1", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
		_, _ = w.Write(manifest)
	})
	mux.HandleFunc("GET /v2/giant/blobs/"+digest.FromBytes(config).String(), func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(config) })
	mux.HandleFunc("GET /v2/giant/blobs/"+g.digest.String(), func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(&counted{w, sent}, r, "", time.Time{}, io.NewSectionReader(g, 0, g.size()))
	})
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://") + "/giant:1"
}

// counted counts the bytes written to a body.
type counted struct {
	http.ResponseWriter
	n *atomic.Int64
}

func (c *counted) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	c.n.Add(int64(n))
	return n, err
}

// cost holds the kernel's counters of the helper process, in bytes, and the
// number of repeated requests.
type cost struct{ Peak, Written, Disk, Extra int64 }

// TestGiantHelper is the process that TestGiantLayer measures.
func TestGiantHelper(t *testing.T) {
	spec := os.Getenv(giantPull)
	if spec == "" {
		t.Skip("needs to be started by TestGiantLayer")
	}
	ref, dir, _ := strings.Cut(spec, " ")
	p := puller(t, func(o *soci.Options) { o.Memory, o.PartBytes = giantMemory, 0 })
	res, err := p.Pull(t.Context(), ref, dir)
	if err != nil {
		t.Fatal(err)
	}
	c := cost{
		Peak:    1024 * procField(t, "/proc/self/status", "VmHWM:"),
		Written: procField(t, "/proc/self/io", "wchar:"),
		Disk:    procField(t, "/proc/self/io", "write_bytes:"),
		Extra:   res.Network.Hedges + res.Network.Retries,
	}
	line, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Printf("%s\n%v %+v\n", line, res.Timing, res.Limit)
}

// procField reads a number from a file of /proc.
func procField(t *testing.T, file, field string) int64 {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, field); ok {
			n, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("no %s in %s", field, file)
	return 0
}

// TestGiantLayer checks that memory does not grow with the size of a layer,
// that its tree is written once, and that its blob is received once and never
// written.
func TestGiantLayer(t *testing.T) {
	size := int64(512 << 20)
	if s := os.Getenv(giantBytes); s != "" {
		var err error
		if size, err = strconv.ParseInt(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	g := newGiant(t, size)
	var sent atomic.Int64
	ref := g.serve(t, &sent)
	parent := t.TempDir()
	if s := os.Getenv(giantDir); s != "" {
		parent = s
	}
	dir := filepath.Join(parent, "root")
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestGiantHelper$")
	cmd.Env = append(os.Environ(), giantPull+"="+ref+" "+dir)
	out, err := cmd.Output()
	if e, ok := errors.AsType[*exec.ExitError](err); ok {
		t.Fatalf("%v: %s %s", err, out, e.Stderr)
	} else if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	var c cost
	if err := json.Unmarshal(out[:bytes.IndexByte(out, '\n')], &c); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Logf("%d bytes of tar from %d: peak memory %d, written %d (%d to the disk so far), sent %d, %d hedges and retries; %s",
		g.tar, g.size(), c.Peak, c.Written, c.Disk, sent.Load(), c.Extra, out[bytes.IndexByte(out, '\n'):])
	if most := int64(giantMemory + 64<<20); c.Peak > most && !raceEnabled {
		t.Errorf("%d bytes of memory at most, want no more than %d", c.Peak, most)
	}
	if most := g.tar + g.tar/50; max(c.Written, c.Disk) > most {
		t.Errorf("%d bytes written, %d to the disk: want no more than %d", c.Written, c.Disk, most)
	}
	if sent.Load() != g.size() && c.Extra == 0 { // on a busy machine late answers cause extra requests
		t.Errorf("%d bytes sent of a blob of %d", sent.Load(), g.size())
	}
}

// TestMoreThan4GiB checks a gzip member with more than 4 GiB, whose trailer
// holds the size modulo 2^32, with one core and with several.
func TestMoreThan4GiB(t *testing.T) {
	if testing.Short() || raceEnabled {
		t.Skip("decodes 4 GiB twice")
	}
	const piece, pieces = 64 << 20, 65
	zeros := make([]byte, piece)
	packed := deflated(t, zeros, false)
	blob := []byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255}
	sum := uint32(0)
	for range pieces {
		blob, sum = append(blob, packed...), crc32.Update(sum, crc32.IEEETable, zeros)
	}
	blob = append(blob, deflated(t, nil, true)...)
	blob = binary.LittleEndian.AppendUint32(blob, sum)
	blob = binary.LittleEndian.AppendUint32(blob, piece*pieces&math.MaxUint32)
	for _, workers := range []int{1, 3} {
		r, err := inflate.NewReader(bytes.NewReader(blob), inflate.Options{Workers: workers})
		if err != nil {
			t.Fatal(err)
		}
		if n, err := io.Copy(io.Discard, r); err != nil || n != piece*pieces {
			t.Errorf("%d workers: %d bytes, %v; want %d", workers, n, err, int64(piece*pieces))
		}
		r.Close()
	}
}
