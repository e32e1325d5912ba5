package s3stream_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/penstock/penstock/internal/testorigin"
	"github.com/penstock/penstock/internal/testport"
	"github.com/penstock/penstock/s3stream"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// origin starts a store that is closed with the test.
func origin(t testing.TB) (*testorigin.Origin, s3stream.S3) {
	t.Helper()
	o, err := testorigin.Start(testorigin.Options{Seed: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { o.Close() })
	return o, s3stream.S3{Endpoint: o.URL(), AccessKeyID: testorigin.AccessKey, SecretAccessKey: testorigin.SecretKey}
}

// goTree returns real bytes: files of the Go tree, one after the other.
func goTree(t testing.TB, n int) []byte {
	t.Helper()
	var b []byte
	root := filepath.Join(runtime.GOROOT(), "src")
	for _, dir := range []string{"net/http", "runtime", "cmd/compile/internal/ssa", "crypto/tls", "go/types"} {
		files, err := os.ReadDir(filepath.Join(root, dir))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			if f.Type().IsRegular() && len(b) < n {
				data, err := os.ReadFile(filepath.Join(root, dir, f.Name()))
				if err != nil {
					t.Fatal(err)
				}
				b = append(b, data...)
			}
		}
	}
	for len(b) < n { // no doubt it is long enough, but for a trimmed tree
		b = append(b, b...)
	}
	return b[:n]
}

// cast is one leader and its workers in this process.
type cast struct {
	t       testing.TB
	ctx     context.Context
	stop    context.CancelFunc
	leader  *s3stream.Leader
	addr    string // what workers dial
	dirs    []string
	cancels []context.CancelFunc // of worker i
	results []chan result        // of worker i
	lead    chan result
	opts    func(i int, o *s3stream.WorkerOptions)
	workers context.Context // of the workers, if not the leader's
}

type result struct {
	rep *s3stream.Report
	err error
}

// stall is long beside anything a loaded test machine delays, for the tests
// that do not wait for it.
const stall = 20 * time.Second

// newCast makes a leader; start runs it and n workers that write to directories.
func newCast(t testing.TB, o s3stream.LeaderOptions) *cast {
	t.Helper()
	o.Listen = testport.Addr(t)
	if o.StallTimeout == 0 {
		o.StallTimeout = stall
	}
	if o.BlockBytes == 0 {
		o.BlockBytes = 64 << 10
	}
	if o.Memory == 0 {
		o.Memory = 64 << 20
	}
	o.Token = "secret-of-the-test"
	o.Log = logTo(t)
	l, err := s3stream.NewLeader(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	return &cast{t: t, ctx: ctx, stop: cancel, leader: l, addr: l.Addr(), lead: make(chan result, 1)}
}

func (c *cast) start(n int) {
	c.t.Helper()
	go func() {
		rep, err := c.leader.Run(c.ctx)
		c.lead <- result{rep, err}
	}()
	for i := range n {
		o := s3stream.WorkerOptions{
			Leader: c.addr, Output: s3stream.Output{Dir: c.t.TempDir()}, Listen: testport.Addr(c.t), Name: fmt.Sprintf("w%d", i+1),
			Rank: i + 1, Token: "secret-of-the-test", Memory: 16 << 20, Wait: stall, Log: logTo(c.t),
		}
		if c.opts != nil {
			c.opts(i, &o)
		}
		c.dirs = append(c.dirs, o.Output.Dir)
		if c.workers == nil {
			c.workers = c.ctx
		}
		ctx, cancel := context.WithCancel(c.workers)
		c.cancels = append(c.cancels, cancel)
		done := make(chan result, 1)
		c.results = append(c.results, done)
		w, err := s3stream.NewWorker(o)
		if err != nil {
			c.t.Fatal(err)
		}
		go func() {
			rep, err := w.Run(ctx)
			done <- result{rep, err}
		}()
	}
}

// worker returns the result of worker i, counted from 1.
func (c *cast) worker(i int) result { return <-c.results[i-1] }

// wantFiles checks that worker i has exactly these files.
func (c *cast) wantFiles(i int, want map[string][]byte) {
	c.t.Helper()
	wantDir(c.t, fmt.Sprintf("worker %d", i), c.dirs[i-1], want)
}

func wantDir(t testing.TB, who, dir string, want map[string][]byte) {
	t.Helper()
	got := map[string][sha256.Size]byte{}
	err := filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(p)
		rel, _ := filepath.Rel(dir, p)
		got[filepath.ToSlash(rel)] = sha256.Sum256(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range want {
		if h, ok := got[name]; !ok || h != sha256.Sum256(data) {
			t.Errorf("%s: %s is missing or wrong", who, name)
		}
	}
	for name := range got {
		if _, ok := want[name]; !ok {
			t.Errorf("%s: unexpected file %s", who, name)
		}
	}
}

// logTo shows what the library logs when a test fails or is verbose.
func logTo(t testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelInfo}))
}

// TestBroadcast is the main path: eight workers, every shape, objects of many
// sizes below a prefix, each byte read once.
func TestBroadcast(t *testing.T) {
	tree := goTree(t, 6<<20)
	want := map[string][]byte{
		"big.bin":       tree,
		"empty":         {},
		"one":           tree[:1],
		"block":         tree[:64<<10],
		"block+1":       tree[:64<<10+1],
		"deep/er/small": tree[1000:2000],
	}
	for i := range 40 {
		want[fmt.Sprintf("many/%02d", i)] = tree[i*1000 : i*3000]
	}
	for _, shape := range []string{"chain", "tree:2", "tree:8", "auto"} {
		t.Run(shape, func(t *testing.T) {
			o, s3 := origin(t)
			var size int64
			for name, data := range want {
				put(t, o, "bucket", "models/v1/"+name, data)
				size += int64(len(data))
			}
			put(t, o, "bucket", "models/v2/other", tree[:10])
			put(t, o, "bucket", "models/v1/folder/", nil) // a console's folder mark
			sent, received := new(progress), [8]progress{}
			c := newCast(t, s3stream.LeaderOptions{URIs: []string{"s3://bucket/models/v1/"}, S3: s3, Workers: 8, Topology: shape, Progress: sent})
			c.opts = func(i int, o *s3stream.WorkerOptions) { o.Progress = &received[i] }
			c.start(8)
			lead := <-c.lead
			if lead.err != nil {
				t.Fatal(lead.err)
			}
			for i := 1; i <= 8; i++ {
				r := c.worker(i)
				if r.err != nil {
					t.Fatalf("worker %d: %v", i, r.err)
				}
				if r.rep.Hash != lead.rep.Hash || r.rep.Bytes != size || len(r.rep.Repairs) > 0 {
					t.Errorf("worker %d: %+v, leader %+v", i, r.rep, lead.rep)
				}
				c.wantFiles(i, want)
				if got := received[i-1]; got != (progress{len(want), size, size, 1}) {
					t.Errorf("progress of worker %d: %+v, want %d objects and %d bytes", i, got, len(want), size)
				}
			}
			if *sent != (progress{len(want), size, size, 1}) {
				t.Errorf("progress of the leader: %+v, want %d objects and %d bytes", *sent, len(want), size)
			}
			for _, w := range lead.rep.Workers {
				if !w.HashOK || w.Bytes != size || w.Err != nil {
					t.Errorf("the leader's line for %s: %+v", w.Name, w)
				}
			}
			if got := o.TotalBytes("bucket/models/v1/"); got > size+size/100 {
				t.Errorf("the origin sent %d bytes of %d: more than once", got, size)
			}
			if lead.rep.Reread != 0 {
				t.Errorf("%d bytes read again without need", lead.rep.Reread)
			}
			if !strings.Contains(lead.rep.Table(), "w8") {
				t.Error("the table lacks a worker")
			}
		})
	}
}

func put(t testing.TB, o *testorigin.Origin, bucket, key string, data []byte) {
	t.Helper()
	if err := o.Put(bucket, key, data); err != nil {
		t.Fatal(err)
	}
}

// TestOutputs: one object to a file, to a writer, to a callback; a leader with
// an output of its own.
func TestOutputs(t *testing.T) {
	data := goTree(t, 1<<20+17)
	o, s3 := origin(t)
	put(t, o, "b", "dir/model.bin", data)
	var buf bytes.Buffer
	var blocks []int64
	done := 0
	outs := []s3stream.Output{
		{File: filepath.Join(t.TempDir(), "sub", "x.bin")},
		{Writer: &buf},
		{OnBlock: func(b s3stream.Block) error {
			if b.Done {
				done++
				return nil
			}
			if !bytes.Equal(b.Data, data[b.Off:b.Off+int64(len(b.Data))]) {
				return errors.New("wrong bytes")
			}
			blocks = append(blocks, b.Off)
			return nil
		}},
	}
	own := t.TempDir()
	c := newCast(t, s3stream.LeaderOptions{URIs: []string{"s3://b/dir/model.bin"}, S3: s3, Workers: 3, Output: s3stream.Output{Dir: own}})
	c.opts = func(i int, o *s3stream.WorkerOptions) { o.Output = outs[i] }
	c.start(3)
	for i := 1; i <= 3; i++ {
		if r := c.worker(i); r.err != nil {
			t.Fatalf("worker %d: %v", i, r.err)
		}
	}
	if r := <-c.lead; r.err != nil {
		t.Fatal(r.err)
	}
	if got, err := os.ReadFile(outs[0].File); err != nil || !bytes.Equal(got, data) {
		t.Errorf("file: %v", err)
	}
	if !bytes.Equal(buf.Bytes(), data) {
		t.Error("the writer got other bytes")
	}
	if done != 1 || len(blocks) != 17 || !slices.IsSorted(blocks) {
		t.Errorf("callback: %d objects, blocks %v", done, blocks)
	}
	wantDir(t, "leader", own, map[string][]byte{"model.bin": data})
}

// progress records the calls of a Progress.
type progress struct {
	objects      int
	total, bytes int64
	done         int
}

func (p *progress) Start(objects int, bytes int64) {
	if *p != (progress{}) {
		panic("Start after another call")
	}
	p.objects, p.total = objects, bytes
}

func (p *progress) Advance(bytes int64) { p.bytes += bytes }

func (p *progress) Done() { p.done++ }

func TestGet(t *testing.T) {
	o, s3 := origin(t)
	rnd := rand.New(rand.NewPCG(1, 2))
	tree := goTree(t, 3<<20)
	want := map[string][]byte{"empty": {}}
	for i := range 20 {
		n := rnd.IntN(len(tree))
		want[fmt.Sprintf("d%d/f%d", i%3, i)] = tree[:n]
	}
	var size int64
	for name, data := range want {
		put(t, o, "b", "p/"+name, data)
		size += int64(len(data))
	}
	dir := filepath.Join(t.TempDir(), "new")
	got := new(progress)
	rep, err := s3stream.Get(t.Context(), s3stream.GetOptions{
		URIs: []string{"s3://b/p/"}, S3: s3, Output: s3stream.Output{Dir: dir}, Memory: 64 << 20,
		Progress: got,
	})
	if err != nil {
		t.Fatal(err)
	}
	if rep.Bytes != size || rep.Objects != len(want) || *got != (progress{len(want), size, size, 1}) {
		t.Errorf("%+v, progress %+v, want %d objects and %d bytes", rep, *got, len(want), size)
	}
	wantDir(t, "get", dir, want)
	if sent := o.TotalBytes("b/p/"); sent > size+size/100 {
		t.Errorf("the origin sent %d bytes of %d", sent, size)
	}
}
