package s3stream_test

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/penstock/penstock/internal/testorigin"
	"github.com/penstock/penstock/s3stream"
)

// BenchmarkBroadcast sends 256 MiB of real bytes through a chain in this
// process, origin included. It shows what a change costs, not what a network
// does: benchmarks/cast measures that.
func BenchmarkBroadcast(b *testing.B) {
	const size = 256 << 20
	file := filepath.Join(b.TempDir(), "model")
	if err := os.WriteFile(file, goTree(b, size), 0o600); err != nil {
		b.Fatal(err)
	}
	o, err := testorigin.Start(testorigin.Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer o.Close()
	if err := o.PutFile("b", "model", file); err != nil {
		b.Fatal(err)
	}
	for _, workers := range []int{1, 8} {
		b.Run(fmt.Sprintf("workers=%d", workers), func(b *testing.B) {
			b.SetBytes(int64(workers) * size)
			b.ReportAllocs()
			for b.Loop() {
				broadcast(b, o, workers)
			}
		})
	}
}

func broadcast(b *testing.B, o *testorigin.Origin, workers int) {
	b.Helper()
	leader, err := s3stream.NewLeader(s3stream.LeaderOptions{
		URIs: []string{"s3://b/model"}, Workers: workers, Listen: "127.0.0.1:0", Memory: 256 << 20,
		S3: s3stream.S3{Endpoint: o.URL(), AccessKeyID: testorigin.AccessKey, SecretAccessKey: testorigin.SecretKey},
	})
	if err != nil {
		b.Fatal(err)
	}
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			w, err := s3stream.NewWorker(s3stream.WorkerOptions{
				Leader: leader.Addr(), Listen: "127.0.0.1:0", Memory: 128 << 20,
				Output: s3stream.Output{OnBlock: func(s3stream.Block) error { return nil }},
			})
			if err == nil {
				_, err = w.Run(b.Context())
			}
			if err != nil {
				b.Error(err)
			}
		})
	}
	if _, err := leader.Run(b.Context()); err != nil {
		b.Error(err)
	}
	wg.Wait()
}

// BenchmarkDigest is the price of LeaderOptions.Digest on each node: SHA-256 of every block.
func BenchmarkDigest(b *testing.B) {
	block := goTree(b, 1<<20)
	h := sha256.New()
	b.SetBytes(int64(len(block)))
	for b.Loop() {
		h.Write(block)
	}
}
