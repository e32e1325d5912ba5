package s3stream_test

import (
	"bytes"
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/penstock/penstock/internal/testorigin"
	"github.com/penstock/penstock/s3stream"
)

// One leader reads an object once and gives it to three workers, here all in
// one process and from a store on the same machine.
func Example() {
	origin, err := testorigin.Start(testorigin.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer origin.Close()
	weights := bytes.Repeat([]byte("weights "), 1<<20)
	if err := origin.Put("models", "llama/model.bin", weights); err != nil {
		log.Fatal(err)
	}

	ctx := context.Background()
	leader, err := s3stream.NewLeader(s3stream.LeaderOptions{
		URIs:    []string{"s3://models/llama/"},
		S3:      s3stream.S3{Endpoint: origin.URL(), AccessKeyID: testorigin.AccessKey, SecretAccessKey: testorigin.SecretKey},
		Workers: 3,
		Listen:  "127.0.0.1:0",
	})
	if err != nil {
		log.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	done := make(chan error)
	for i := range 3 {
		go func() {
			worker, err := s3stream.NewWorker(s3stream.WorkerOptions{
				Leader: leader.Addr(),
				Output: s3stream.Output{Dir: filepath.Join(dir, fmt.Sprint(i))},
				Listen: "127.0.0.1:0",
			})
			if err == nil {
				_, err = worker.Run(ctx)
			}
			done <- err
		}()
	}
	report, err := leader.Run(ctx)
	if err != nil {
		log.Fatal(err)
	}
	for range 3 {
		if err := <-done; err != nil {
			log.Fatal(err)
		}
	}
	for i := range 3 {
		got, err := os.ReadFile(filepath.Join(dir, fmt.Sprint(i), "model.bin"))
		fmt.Println("worker", i+1, bytes.Equal(got, weights), err)
	}
	fmt.Println("workers that have everything:", len(report.Workers))
	fmt.Println("times that the store sent each byte:", origin.TotalBytes("models/")/report.Bytes)
	// Output:
	// worker 1 true <nil>
	// worker 2 true <nil>
	// worker 3 true <nil>
	// workers that have everything: 3
	// times that the store sent each byte: 1
}

// Get is for a single node.
func ExampleGet() {
	origin, err := testorigin.Start(testorigin.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer origin.Close()
	if err := origin.Put("b", "greeting.txt", []byte("hello\n")); err != nil {
		log.Fatal(err)
	}
	_, err = s3stream.Get(context.Background(), s3stream.GetOptions{
		URIs:   []string{"s3://b/greeting.txt"},
		S3:     s3stream.S3{Endpoint: origin.URL(), AccessKeyID: testorigin.AccessKey, SecretAccessKey: testorigin.SecretKey},
		Output: s3stream.Output{Writer: os.Stdout},
	})
	if err != nil {
		log.Fatal(err)
	}
	// Output: hello
}
