// Command broadcast-weights reads an object or a prefix from S3 once and gives
// it to several workers, each with a directory of its own.
//
//	AWS_ENDPOINT_URL=http://127.0.0.1:9000 broadcast-weights s3://models/llama/ /dev/shm/llama 8
//
// Leader and workers run in one program here. In a job, each of them is a process
// on its own node, and the workers know only the leader's address.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"

	"github.com/penstock/penstock/s3stream"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "broadcast-weights:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) != 3 {
		return fmt.Errorf("want s3://bucket/prefix/ DIRECTORY WORKERS, got %d arguments", len(args))
	}
	uri, dir := args[0], args[1]
	n, err := strconv.Atoi(args[2])
	if err != nil || n < 1 {
		return fmt.Errorf("%q is not a number of workers", args[2])
	}
	// Credentials, region and endpoint come from the environment.
	leader, err := s3stream.NewLeader(s3stream.LeaderOptions{URIs: []string{uri}, Workers: n, Listen: "127.0.0.1:0"})
	if err != nil {
		return err
	}
	done := make(chan error, n)
	for i := range n {
		go func() { done <- work(ctx, leader.Addr(), filepath.Join(dir, fmt.Sprintf("worker-%d", i+1)), i+1) }()
	}
	report, err := leader.Run(ctx)
	for range n {
		if werr := <-done; err == nil {
			err = werr // an error of the leader names the cause better
		}
	}
	if report != nil {
		fmt.Print(report.Table())
	}
	return err
}

// work runs one worker, which joins, receives, passes on, and writes its files.
func work(ctx context.Context, leader, dir string, rank int) error {
	worker, err := s3stream.NewWorker(s3stream.WorkerOptions{
		Leader: leader,
		Output: s3stream.Output{Dir: dir},
		Listen: "127.0.0.1:0",
		Name:   fmt.Sprintf("worker-%d", rank),
		Rank:   rank,
	})
	if err != nil {
		return err
	}
	_, err = worker.Run(ctx)
	return err
}
