package s3store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"math/rand/v2"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/penstock/penstock/csi/internal/fs"
	"github.com/penstock/penstock/csi/internal/memstore"
	"github.com/penstock/penstock/internal/budget"
	"github.com/penstock/penstock/internal/ranges"
	"github.com/penstock/penstock/internal/s3"
	"github.com/penstock/penstock/internal/testorigin"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const bucket = "bucket"

// start returns an origin with a bucket, and the store of it.
func start(t *testing.T) (*testorigin.Origin, *Store) {
	t.Helper()
	o, err := testorigin.Start(testorigin.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = o.Close() })
	if err := o.CreateBucket(bucket, testorigin.BucketOptions{}); err != nil {
		t.Fatal(err)
	}
	client, err := s3.New(t.Context(), s3.Options{
		Endpoint: o.URL(), Retry: ranges.RetryPolicy{Attempts: -1},
		Credentials: s3.StaticCredentials(testorigin.AccessKey, testorigin.SecretKey, ""),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	engine, err := ranges.New(ranges.Options{Budget: budget.New(64 << 20)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = engine.Close() })
	return o, New(client, engine, bucket)
}

func put(t *testing.T, o *testorigin.Origin, key string, data []byte) {
	t.Helper()
	if err := o.Put(bucket, key, data); err != nil {
		t.Fatal(err)
	}
}

func list(s fs.Store, prefix string) string {
	var b strings.Builder
	for e, err := range s.List(context.Background(), prefix, 0) {
		if err != nil {
			return err.Error()
		}
		fmt.Fprintf(&b, "%q %d %v\n", e.Key, e.Size, e.IsPrefix)
	}
	return b.String()
}

// TestSameAsMemory: the store over S3 and the one in memory show the same bucket, keys with every kind of odd byte
// included. So what the core's tests prove over the one holds over the other.
func TestSameAsMemory(t *testing.T) {
	o, s := start(t)
	mem := &memstore.Store{}
	for _, key := range []string{
		"a", "a-", "a-1", "a/", "a/b", "a/b/c", "a//d", "+", "%41", "sp ace", "caf\u00e9", "new\nline", "\u65e5\u672c", "-", "z/z/z",
		"quote\"'<>&", "a0",
	} {
		put(t, o, key, []byte(key))
		mem.Put(key, []byte(key))
	}
	for _, prefix := range []string{"", "a/", "a/b/", "a//", "none/", "z/"} {
		if got, want := list(s, prefix), list(mem, prefix); got != want {
			t.Errorf("below %q:\ngot\n%swant\n%s", prefix, got, want)
		}
	}
	for _, key := range mem.Keys() {
		if strings.HasSuffix(key, "/") || strings.Contains(key, "//") {
			continue
		}
		a, err := s.Stat(t.Context(), key)
		if err != nil || a.Size != int64(len(key)) || a.ETag == "" || a.ModTime.IsZero() {
			t.Errorf("stat %q: %+v, %v", key, a, err)
			continue
		}
		for e, err := range s.List(t.Context(), key, 1) {
			if err != nil || e.ETag != a.ETag || e.ModTime.Unix() != a.ModTime.Unix() {
				t.Errorf("%q: LIST says %+v, HEAD %+v (%v)", key, e, a, err)
			}
			break
		}
		r, err := s.Open(t.Context(), a)
		if err != nil {
			t.Fatal(err)
		}
		p := make([]byte, a.Size)
		if n, err := r.ReadAt(t.Context(), p, 0); n != len(p) || err != nil && !errors.Is(err, io.EOF) || string(p) != key {
			t.Errorf("read %q: %q, %v", key, p[:n], err)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestErrorsMatchTheCore(t *testing.T) {
	o, s := start(t)
	put(t, o, "file", []byte("version one"))
	obj, err := s.Stat(t.Context(), "file")
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.Stat(t.Context(), "missing")
	if !errors.Is(err, iofs.ErrNotExist) {
		t.Errorf("missing: %v", err)
	}
	read := func() error {
		r, err := s.Open(t.Context(), obj)
		if err != nil {
			return err
		}
		defer r.Close()
		_, err = r.ReadAt(t.Context(), make([]byte, 4), 0)
		return err
	}
	put(t, o, "file", []byte("version two"))
	if err := read(); !errors.Is(err, fs.ErrChanged) {
		t.Errorf("replaced: %v", err)
	}
	o.Delete(bucket, "file")
	if err := read(); !errors.Is(err, iofs.ErrNotExist) && !errors.Is(err, fs.ErrChanged) {
		t.Errorf("deleted: %v", err)
	}
	o.SetFaults(testorigin.Fault{Action: testorigin.ActStatus, Status: 403, Error: "AccessDenied"})
	if _, err := s.Stat(t.Context(), "file"); !errors.Is(err, iofs.ErrPermission) {
		t.Errorf("refused: %v", err)
	}
	if got := list(s, ""); !strings.Contains(got, "access denied") {
		t.Errorf("refused: %s", got)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Stat(ctx, "file"); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// TestRandomReadsFetchWhatTheyAsk: reads at random offsets fetch at most 1.05 times the bytes they ask for.
func TestRandomReadsFetchWhatTheyAsk(t *testing.T) {
	o, s := start(t)
	data := make([]byte, 64<<20)
	rng := rand.NewChaCha8([32]byte{1})
	_, _ = rng.Read(data)
	put(t, o, "big", data)
	obj, err := s.Stat(t.Context(), "big")
	if err != nil {
		t.Fatal(err)
	}
	r, err := s.Open(t.Context(), obj)
	if err != nil {
		t.Fatal(err)
	}
	const size, reads = 128 << 10, 100
	p := make([]byte, size)
	for range reads {
		off := int64(rng.Uint64()%uint64(len(data)-size)) &^ 4095
		if n, err := r.ReadAt(t.Context(), p, off); n != size || err != nil {
			t.Fatalf("read at %d: %d, %v", off, n, err)
		}
		if !bytes.Equal(p, data[off:off+size]) {
			t.Fatalf("wrong bytes at %d", off)
		}
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if got, most := o.Count("GetObject", bucket+"/big").Bytes, int64(reads*size*105/100); got > most {
		t.Errorf("fetched %d bytes for %d asked, at most %d allowed", got, reads*size, most)
	}
}
