package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go"
)

// job is the driver's request.
type job struct {
	client      string
	endpoint    string
	bucket, key string
	objects     int   // if 0, key is one object; else the objects are key/00000 to key/(objects-1)
	conns       int   // concurrent requests
	part        int64 // bytes of a part
	verify      string
}

// report is the line for the driver; see bench.Report.
type report struct {
	Bytes   int64   `json:"bytes"`
	Seconds float64 `json:"seconds"`
	Outcome string  `json:"outcome"`
	Error   string  `json:"error,omitempty"`
}

func main() {
	var j job
	flag.StringVar(&j.client, "client", "", "manager, manager-pooled, tm-download or tm-get")
	flag.StringVar(&j.endpoint, "endpoint", "", "S3 endpoint `URL`")
	flag.StringVar(&j.bucket, "bucket", "", "bucket")
	flag.StringVar(&j.key, "key", "", "key, or prefix of the keys with -objects")
	flag.IntVar(&j.objects, "objects", 0, "number of objects below the prefix")
	flag.IntVar(&j.conns, "conns", 16, "parallel requests")
	flag.Int64Var(&j.part, "part", 8<<20, "part size in bytes")
	flag.StringVar(&j.verify, "verify", "", "compare the delivered bytes with this `file`")
	flag.Parse()

	start := time.Now()
	n, err := run(context.Background(), j)
	r := report{Bytes: n, Seconds: time.Since(start).Seconds(), Outcome: "ok"}
	if err != nil {
		r.Outcome, r.Error = classify(err), err.Error()
	}
	if err := json.NewEncoder(os.Stdout).Encode(r); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if r.Outcome != "ok" {
		os.Exit(1)
	}
}

// classify names the kind of a failure, as the caller of the client sees it.
func classify(err error) string {
	var api smithy.APIError
	switch {
	case errors.Is(err, errCorrupt):
		return "corrupt"
	case errors.As(err, &api) && api.ErrorCode() == "PreconditionFailed":
		return "typed"
	}
	return "error"
}

func run(ctx context.Context, j job) (int64, error) {
	ref, err := openReference(j.verify)
	if err != nil {
		return 0, err
	}
	client, err := newS3(ctx, j)
	if err != nil {
		return 0, err
	}
	if j.objects == 0 {
		d, err := newDownloader(j.client, client, j.part, j.conns)
		if err != nil {
			return 0, err
		}
		return d(ctx, j.bucket, j.key, ref)
	}
	// Many small objects, conns of them concurrently, with one request each.
	d, err := newDownloader(j.client, client, j.part, 1)
	if err != nil {
		return 0, err
	}
	var total, next atomic.Int64
	errs := make([]error, j.conns)
	var wg sync.WaitGroup
	for w := range j.conns {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < int64(j.objects) && errs[w] == nil; i = next.Add(1) - 1 {
				n, err := d(ctx, j.bucket, fmt.Sprintf("%s/%05d", j.key, i), ref)
				total.Add(n)
				errs[w] = err
			}
		})
	}
	wg.Wait()
	return total.Load(), errors.Join(errs...)
}

func newS3(ctx context.Context, j job) (*s3.Client, error) {
	// The default pool keeps 10 connections to a host. With 16 requests it would
	// keep closing and opening connections.
	hc := awshttp.NewBuildableClient().WithTransportOptions(func(t *http.Transport) { t.MaxIdleConnsPerHost = 256 })
	cfg, err := config.LoadDefaultConfig(ctx, config.WithHTTPClient(hc))
	if err != nil {
		return nil, err
	}
	return s3.NewFromConfig(cfg, func(o *s3.Options) {
		o.BaseEndpoint = aws.String(j.endpoint)
		o.UsePathStyle = true
		// Ours verifies. The peers' own check of a whole object is left out in their
		// favour.
		o.ResponseChecksumValidation = aws.ResponseChecksumValidationWhenRequired
	}), nil
}
