package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/penstock/penstock/internal/cli"
	"github.com/penstock/penstock/internal/testorigin"
	"github.com/penstock/penstock/s3stream"
)

const (
	workerRole = "worker"
	tokenEnv   = "PENSTOCK_CAST_TOKEN"
	bucketName = "go-tree"
)

// workerResult is the JSON line that a worker process prints.
type workerResult struct {
	SHA256  string  `json:"sha256"` // of all objects' bytes, in order
	Bytes   int64   `json:"bytes"`
	Seconds float64 `json:"seconds"`
}

// worker is the program of a worker process: it joins the leader, hashes the
// objects that it receives and prints the hash.
func worker(ctx context.Context, args []string, s cli.Streams) error {
	var leader, name string
	c := cli.New("demo "+workerRole, cli.Help{Usage: []string{"[flags]"}, About: "Receives objects from the demo's leader."})
	f := c.Group("Flags")
	f.StringVar(&leader, "leader", "", "`HOST:PORT` of the leader")
	f.StringVar(&name, "name", "", "`NAME` in reports")
	if _, err := c.Parse(args, s.Out); err != nil {
		return err
	}
	if err := runWorker(ctx, leader, name); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

func runWorker(ctx context.Context, leader, name string) error {
	h := sha256.New()
	begin := time.Now()
	w, err := s3stream.NewWorker(s3stream.WorkerOptions{
		Leader: leader, Name: name, Listen: "127.0.0.1:0", Token: os.Getenv(tokenEnv), Wait: 20 * time.Second,
		Output: s3stream.Output{OnBlock: func(b s3stream.Block) error { h.Write(b.Data); return nil }},
	})
	if err != nil {
		return err
	}
	rep, err := w.Run(ctx)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(workerResult{hex.EncodeToString(h.Sum(nil)), rep.Bytes, time.Since(begin).Seconds()})
}

// runStorage puts the input into a bucket and broadcasts it.
func runStorage(ctx context.Context, env *environment) (result, error) {
	var r result
	for _, f := range env.files {
		if err := env.origin.PutFile(bucketName, f.key, f.path, testorigin.PutFileOptions{CRC64NVME: true}); err != nil {
			return r, err
		}
	}
	want, err := hashFiles(ctx, env.files)
	if err != nil {
		return r, err
	}
	env.ui.say("%d objects in s3://%s", len(env.files), bucketName)
	env.origin.Reset()

	j := env.ui.job(fmt.Sprintf("broadcast to %d processes", env.workers), env.bytes)
	begin := time.Now()
	rep, workers, err := broadcast(ctx, env, j)
	if err != nil {
		return r, err
	}
	took := time.Since(begin)
	j.end("topology %s", rep.Topology)
	for i, w := range workers {
		if w.SHA256 != want || w.Bytes != env.bytes {
			return r, fmt.Errorf("worker %d has %d bytes with hash %s, the source has %d with %s", i, w.Bytes, w.SHA256, env.bytes, want)
		}
	}
	sent := env.origin.TotalBytes(bucketName + "/")
	// Hedges repeat late requests, which adds at most 1 % to the bytes.
	if sent < env.bytes || sent > env.bytes+env.bytes/100 {
		return r, fmt.Errorf("read-once is broken: the origin sent %d bytes of %d", sent, env.bytes)
	}
	for _, w := range rep.Workers {
		env.ui.say("%-10s %s, %s, hash ok: %v", w.Name, size(w.Bytes), rate(w.Bytes, w.Elapsed), w.HashOK)
	}
	all := sent * int64(env.workers)
	r.figure("objects", len(env.files), "objects", fmt.Sprintf("%d, %s", len(env.files), size(env.bytes)))
	r.figure("workers", env.workers, "workers", fmt.Sprintf("%d processes, every hash right", env.workers))
	r.figure("origin_bytes", sent, "origin sent", fmt.Sprintf("%s, %.4f times the objects", size(sent), float64(sent)/float64(env.bytes)))
	r.figure("worker_bytes_per_second", float64(env.bytes)/took.Seconds(), "per worker", rate(env.bytes, took))
	r.figure("aggregate_bytes_per_second", float64(all)/took.Seconds(), "aggregate", rate(all, took))
	return r, nil
}

func hashFiles(ctx context.Context, files []file) (string, error) {
	h := sha256.New()
	for _, f := range files {
		if ctx.Err() != nil {
			return "", context.Cause(ctx)
		}
		in, err := os.Open(f.path)
		if err != nil {
			return "", err
		}
		_, err = io.Copy(h, in)
		if err = errors.Join(err, in.Close()); err != nil {
			return "", err
		}
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// jobProgress passes a running total to a job.
type jobProgress struct {
	job   *job
	bytes int64
}

// Start implements [s3stream.Progress].
func (p *jobProgress) Start(int, int64) {}

// Advance implements [s3stream.Progress].
func (p *jobProgress) Advance(bytes int64) {
	p.bytes += bytes
	p.job.at(p.bytes)
}

// Done implements [s3stream.Progress].
func (p *jobProgress) Done() {}

// broadcast runs the leader here and the workers as processes.
func broadcast(ctx context.Context, env *environment, j *job) (*s3stream.Report, []workerResult, error) {
	token := rand.Text()
	l, err := s3stream.NewLeader(s3stream.LeaderOptions{
		URIs:    []string{"s3://" + bucketName},
		S3:      s3stream.S3{Endpoint: env.origin.URL(), Region: "us-east-1", AccessKeyID: testorigin.AccessKey, SecretAccessKey: testorigin.SecretKey},
		Workers: env.workers, Wait: 20 * time.Second, Listen: "127.0.0.1:0", Token: token,
		Progress: &jobProgress{job: j},
	})
	if err != nil {
		return nil, nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, nil, errors.Join(err, l.Close())
	}
	workers := make([]workerResult, env.workers)
	g, ctx := errgroup.WithContext(ctx)
	for i := range env.workers {
		g.Go(func() error {
			var err error
			workers[i], err = startWorker(ctx, self, l.Addr(), token, i)
			return err
		})
	}
	var rep *s3stream.Report
	g.Go(func() error {
		var err error
		rep, err = l.Run(ctx)
		return err
	})
	return rep, workers, g.Wait()
}

func startWorker(ctx context.Context, self, leader, token string, i int) (workerResult, error) {
	var w workerResult
	var stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, self, workerRole, "--leader", leader, "--name", fmt.Sprintf("worker-%d", i))
	cmd.Env = append(os.Environ(), tokenEnv+"="+token)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return w, fmt.Errorf("worker %d: %w: %s", i, err, bytes.TrimSpace(stderr.Bytes()))
	}
	return w, json.Unmarshal(out, &w)
}
