package csi_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"iter"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"go.uber.org/goleak"

	"github.com/penstock/penstock/csi"
	"github.com/penstock/penstock/csi/internal/fs"
	"github.com/penstock/penstock/csi/internal/memstore"
	"github.com/penstock/penstock/internal/testorigin"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		// The sanity suite keeps its last connection for good, and its runner a watch for signals.
		goleak.IgnoreAnyFunction("github.com/onsi/ginkgo/v2/internal/interrupt_handler.(*InterruptHandler).registerForInterrupts.func2"),
		goleak.IgnoreAnyFunction("google.golang.org/grpc/internal/grpcsync.(*CallbackSerializer).run"),
		goleak.IgnoreAnyFunction("google.golang.org/grpc/internal/transport.(*controlBuffer).get"),
		goleak.IgnoreAnyFunction("google.golang.org/grpc/internal/transport.(*http2Client).reader"),
	)
}

const bucket = "models"

// startOrigin returns a loopback S3 with an empty bucket.
func startOrigin(t testing.TB) *testorigin.Origin {
	t.Helper()
	o, err := testorigin.Start(testorigin.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = o.Close() })
	if err := o.CreateBucket(bucket, testorigin.BucketOptions{}); err != nil {
		t.Fatal(err)
	}
	return o
}

func put(t testing.TB, o *testorigin.Origin, key string, data []byte) {
	t.Helper()
	if err := o.Put(bucket, key, data); err != nil {
		t.Fatal(err)
	}
}

// s3At is how to reach an origin.
func s3At(o *testorigin.Origin) csi.S3Options {
	return csi.S3Options{
		Endpoint: o.URL(), Region: testorigin.Region, Outage: time.Second, // dead ones are dead soon
		AccessKeyID: testorigin.AccessKey, SecretAccessKey: testorigin.SecretKey,
	}
}

func open(t testing.TB, opts csi.BucketOptions) *csi.Bucket {
	t.Helper()
	if opts.Bucket == "" {
		opts.Bucket = bucket
	}
	b, err := csi.OpenBucket(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

// goTree puts a part of the Go tree of this machine into the bucket below prefix, and returns the files by path.
func goTree(t testing.TB, o *testorigin.Origin, prefix string) map[string]string {
	t.Helper()
	root := filepath.Join(runtime.GOROOT(), "src", "encoding")
	files := map[string]string{}
	err := filepath.WalkDir(root, func(path string, d iofs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		files[filepath.ToSlash(rel)] = path
		return o.PutFile(bucket, prefix+filepath.ToSlash(rel), path)
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 50 {
		t.Fatalf("only %d files below %s", len(files), root)
	}
	return files
}

func TestBucketAsFS(t *testing.T) {
	o := startOrigin(t)
	files := goTree(t, o, "go/")
	b := open(t, csi.BucketOptions{Prefix: "go", S3: s3At(o), Memory: 64 << 20})
	fsys := b.FS(t.Context())
	var names []string
	for name, path := range files {
		names = append(names, name)
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := iofs.ReadFile(fsys, name); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes of %d, %v", name, len(got), len(want), err)
		}
	}
	// The standard library's conformance suite, on a part small enough to be read many times over.
	sub, err := iofs.Sub(fsys, "hex")
	if err != nil {
		t.Fatal(err)
	}
	if err := fstest.TestFS(sub, "hex.go", "hex_test.go"); err != nil {
		t.Error(err)
	}
	if got, err := iofs.ReadDir(fsys, "json"); err != nil || len(got) < 10 {
		t.Errorf("json: %d entries, %v", len(got), err)
	}
	found := 0
	err = iofs.WalkDir(fsys, ".", func(_ string, d iofs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			found++
		}
		return err
	})
	if err != nil || found != len(names) {
		t.Errorf("a walk finds %d files of %d, %v", found, len(names), err)
	}
}

func TestFileSeekAndEnds(t *testing.T) {
	o := startOrigin(t)
	put(t, o, "digits", []byte("0123456789"))
	b := open(t, csi.BucketOptions{S3: s3At(o)})
	f, err := b.FS(t.Context()).Open("digits")
	if err != nil {
		t.Fatal(err)
	}
	seeker, ok := f.(io.ReadSeeker)
	if !ok {
		t.Fatal("a file must seek")
	}
	if _, err := seeker.Seek(-3, io.SeekEnd); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(seeker); err != nil || string(got) != "789" {
		t.Errorf("%q, %v", got, err)
	}
	for _, bad := range []struct {
		off    int64
		whence int
	}{{-1, io.SeekStart}, {-11, io.SeekEnd}, {0, 9}} {
		if _, err := seeker.Seek(bad.off, bad.whence); !errors.Is(err, iofs.ErrInvalid) {
			t.Errorf("seek %+v: %v", bad, err)
		}
	}
	put(t, o, "digits", []byte("9876543210"))
	readerAt, ok := f.(io.ReaderAt)
	if !ok {
		t.Fatal("a file must have ReadAt")
	}
	// What was fetched may be served again, another version never.
	p := make([]byte, 10)
	if _, err := readerAt.ReadAt(p, 0); err != nil && !errors.Is(err, csi.ErrChanged) || err == nil && string(p) != "0123456789" {
		t.Errorf("after a change: %q, %v", p, err)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	if err := f.Close(); !errors.Is(err, iofs.ErrClosed) {
		t.Errorf("closed twice: %v", err)
	}
	if _, err := f.Read(p); !errors.Is(err, iofs.ErrClosed) {
		t.Errorf("read after close: %v", err)
	}
}

func TestOpenBucketFailures(t *testing.T) {
	o := startOrigin(t)
	dead := startOrigin(t)
	_ = dead.Close()
	wrong, refused := s3At(o), s3At(dead)
	wrong.SecretAccessKey, refused.Outage = "not-the-secret", -1
	for _, c := range []struct {
		what string
		opts csi.BucketOptions
		want string // in the message
		is   error
	}{
		{"no bucket", csi.BucketOptions{}, "no bucket: name one", nil},
		{"bad name", csi.BucketOptions{Bucket: "a b"}, "not a bucket name", nil},
		{"missing", csi.BucketOptions{Bucket: "missing", S3: s3At(o)}, "no such bucket", iofs.ErrNotExist},
		{"wrong secret", csi.BucketOptions{Bucket: bucket, S3: wrong}, "wrong secret key", iofs.ErrPermission},
		{"refused", csi.BucketOptions{Bucket: bucket, S3: refused}, "refuses connections", nil},
		{"half a pair", csi.BucketOptions{Bucket: bucket, S3: csi.S3Options{AccessKeyID: "x"}}, "half of a key pair", nil},
		{"token alone", csi.BucketOptions{Bucket: bucket, S3: csi.S3Options{SessionToken: "x"}}, "without a key pair", nil},
		{"both", csi.BucketOptions{Bucket: bucket, S3: csi.S3Options{Anonymous: true, AccessKeyID: "x", SecretAccessKey: "y"}}, "one of the two", nil},
		{"endpoint", csi.BucketOptions{Bucket: bucket, S3: csi.S3Options{Endpoint: "nonsense"}}, "endpoint", nil},
		{"prefix", csi.BucketOptions{Bucket: bucket, Prefix: "a\x00"}, "no key can start with it", nil},
		{"memory", csi.BucketOptions{Bucket: bucket, Memory: 1}, "use at least", nil},
		{"owner", csi.BucketOptions{Bucket: bucket, UID: -1}, "use ids from 0", nil},
		{"mode", csi.BucketOptions{Bucket: bucket, FileMode: iofs.ModeSetuid}, "permission bits", nil},
	} {
		b, err := csi.OpenBucket(t.Context(), c.opts)
		if err == nil {
			_ = b.Close()
			t.Errorf("%s: opened", c.what)
			continue
		}
		if !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v; want one line with %q", c.what, err, c.want)
		}
		if c.is != nil && !errors.Is(err, c.is) {
			t.Errorf("%s: %v is not %v", c.what, err, c.is)
		}
		if strings.Contains(err.Error(), wrong.SecretAccessKey) || strings.Contains(err.Error(), testorigin.SecretKey) {
			t.Errorf("%s: a secret is in %v", c.what, err)
		}
	}
}

func TestSecretsDoNotPrint(t *testing.T) {
	opts := csi.Options{S3: csi.S3Options{AccessKeyID: "id", SecretAccessKey: "hush", SessionToken: "hush"}}
	var b bytes.Buffer
	slog.New(slog.NewTextHandler(&b, nil)).Info("x", "s3", opts.S3, "options", opts)
	for _, s := range []string{fmt.Sprint(opts), fmt.Sprintf("%+v", opts), fmt.Sprintf("%#v", opts), b.String()} {
		if strings.Contains(s, "hush") {
			t.Errorf("a secret is in %s", s)
		}
	}
}

// memory is the model store with the types of this package.
type memory struct{ memstore.Store }

func (m *memory) Stat(ctx context.Context, key string) (csi.Object, error) {
	o, err := m.Store.Stat(ctx, key)
	return csi.Object(o), err
}

func (m *memory) List(ctx context.Context, prefix string, limit int) iter.Seq2[csi.Entry, error] {
	return func(yield func(csi.Entry, error) bool) {
		for e, err := range m.Store.List(ctx, prefix, limit) {
			if !yield(csi.Entry{Object: csi.Object(e.Object), IsPrefix: e.IsPrefix}, err) {
				return
			}
		}
	}
}

func (m *memory) Open(ctx context.Context, o csi.Object) (csi.Reader, error) {
	return m.Store.Open(ctx, fs.Object(o))
}

// A bucket can come from anywhere, here from memory, and is read as any file system of the standard library.
func ExampleOpenBucket() {
	ctx := context.Background()
	store := &memory{}
	store.Put("train/readme.txt", []byte("two epochs, please\n"))
	store.Put("train/data/0001.bin", []byte{1, 2, 3})
	b, err := csi.OpenBucket(ctx, csi.BucketOptions{Store: store, Prefix: "train"})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer b.Close()
	entries, err := iofs.ReadDir(b.FS(ctx), ".")
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, e := range entries {
		fmt.Println(e)
	}
	text, err := iofs.ReadFile(b.FS(ctx), "readme.txt")
	fmt.Print(string(text), err, "\n")
	// Output:
	// d data/
	// - readme.txt
	// two epochs, please
	// <nil>
}

// TestEmptyPrefix: a prefix below which there is nothing is refused, with what may be wrong with it, unless it is wanted;
// keys that really begin with a slash, or have two in a row, are shown.
func TestEmptyPrefix(t *testing.T) {
	o := startOrigin(t)
	for _, key := range []string{"llama/w", "/odd/w", "two//w", "marker/"} {
		put(t, o, key, []byte("x"))
	}
	for prefix, want := range map[string]string{
		"missing":  `nothing is below the prefix "missing/": check its spelling, or set allow-empty`,
		"/llama/":  `perhaps it is "llama/"`,
		"llama//":  `perhaps it is "llama/"`,
		"//llama":  `perhaps it is "llama/"`,
		"llama/w":  "an object has that name",
		"llama/w/": "an object has that name",
		"/":        "", // there is "/odd/w"
		"/odd":     "",
		"two//":    "",
		"marker":   "", // a directory that is empty on purpose
		"llama":    "",
	} {
		opts := csi.BucketOptions{Bucket: bucket, Prefix: prefix, S3: s3At(o)}
		b, err := csi.OpenBucket(t.Context(), opts)
		if err == nil {
			_ = b.Close() // it was only to see whether it opens
		}
		if want == "" && err != nil || want != "" && (!errors.Is(err, iofs.ErrNotExist) || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: got %v, want %q", prefix, err, want)
		}
		opts.AllowEmpty = true
		b = open(t, opts)
		if _, err := iofs.ReadDir(b.FS(t.Context()), "."); err != nil {
			t.Errorf("%q allowed: %v", prefix, err)
		}
	}
}

// TestUnsortedListing: a store that lists in no order, as directory buckets of S3 and servers over a file system do, shows
// all names, each once.
func TestUnsortedListing(t *testing.T) {
	for _, order := range []string{testorigin.OrderFiler, testorigin.OrderRandom} {
		o := startOrigin(t)
		o.SetQuirks(testorigin.Quirks{ListOrder: order, ListPage: 3})
		want := map[string]bool{}
		for i := range 40 {
			put(t, o, fmt.Sprintf("d/f%02d", i), []byte("x"))
			put(t, o, fmt.Sprintf("d/f%02d-more/x", i), []byte("x"))
			put(t, o, fmt.Sprintf("d/f%02d.txt", i), []byte("x"))
			want[fmt.Sprintf("f%02d", i)], want[fmt.Sprintf("f%02d-more", i)], want[fmt.Sprintf("f%02d.txt", i)] = false, true, false
		}
		b := open(t, csi.BucketOptions{S3: s3At(o)})
		for range 2 { // the second time the order is known
			list, err := iofs.ReadDir(b.FS(t.Context()), "d")
			if err != nil {
				t.Fatalf("%s: %v", order, err)
			}
			for _, e := range list {
				if isDir, ok := want[e.Name()]; !ok || isDir != e.IsDir() {
					t.Errorf("%s: unexpected %v", order, e)
				}
			}
			if len(list) != len(want) {
				t.Errorf("%s: %d names, want %d", order, len(list), len(want))
			}
		}
		if text, err := iofs.ReadFile(b.FS(t.Context()), "d/f07-more/x"); err != nil || string(text) != "x" {
			t.Errorf("%s: %q, %v", order, text, err)
		}
	}
}

// TestInterfaces reads a bucket from a local address of the options.
func TestInterfaces(t *testing.T) {
	var mu sync.Mutex
	from := map[string]bool{}
	o, err := testorigin.Start(testorigin.Options{Tap: func(e testorigin.Event) {
		host, _, _ := net.SplitHostPort(e.Remote)
		mu.Lock()
		defer mu.Unlock()
		from[host] = true
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = o.Close() })
	put(t, o, "k", []byte("bytes"))
	s3 := s3At(o)
	s3.Interfaces = []string{"127.0.0.2"}
	if err := s3.Validate(); err != nil {
		t.Skipf("needs 127.0.0.2: %v", err)
	}
	if data, err := iofs.ReadFile(open(t, csi.BucketOptions{S3: s3}).FS(t.Context()), "k"); err != nil || string(data) != "bytes" {
		t.Errorf("read %q, %v", data, err)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(from) != 1 || !from["127.0.0.2"] {
		t.Errorf("requests from %v, want 127.0.0.2 alone", from)
	}
	s3.Interfaces = []string{"127.0.0.2", "nosuchif0"}
	if err := s3.Validate(); err == nil || !strings.Contains(err.Error(), `interfaces: no interface or address "nosuchif0" on this host: use one of`) {
		t.Errorf("an unknown interface: error %v", err)
	}
}
