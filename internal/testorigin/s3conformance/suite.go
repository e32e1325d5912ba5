package s3conformance

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"
)

// Config names the endpoint under test.
type Config struct {
	Endpoint             string // http://host:port, path style
	AccessKey, SecretKey string
	Region               string // default us-east-1
	// NewBucket makes an empty bucket with or without versions, and returns its
	// name. The default is CreateBucket and PutBucketVersioning through the
	// API.
	NewBucket func(t *testing.T, versioned bool) string
	// Skip maps names of checks to the reason why they are not run.
	Skip map[string]string
}

// suite is one run; each check gets its own copy with its own t.
type suite struct {
	*testing.T
	cfg    Config
	opts   s3.Options
	c      *s3.Client
	bucket string // a bucket without versions
}

type check struct {
	name string
	run  func(*suite)
}

// Run runs all checks.
func Run(t *testing.T, cfg Config) {
	t.Helper()
	if cfg.Region == "" {
		cfg.Region = "us-east-1"
	}
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	opts := s3.Options{
		BaseEndpoint: aws.String(cfg.Endpoint),
		Region:       cfg.Region,
		UsePathStyle: true,
		Credentials:  credentials.NewStaticCredentialsProvider(cfg.AccessKey, cfg.SecretKey, ""),
		HTTPClient:   &http.Client{Transport: transport},
		Retryer:      aws.NopRetryer{}, // the first answer is the one under test
	}
	c := s3.New(opts)
	if cfg.NewBucket == nil {
		cfg.NewBucket = bucketMaker(c)
	}
	bucket := cfg.NewBucket(t, false)
	var groups []check
	for _, g := range [][]check{getChecks, putChecks, listChecks, multipartChecks, versionChecks, bucketChecks} {
		groups = append(groups, g...)
	}
	used := map[string]bool{}
	for _, ck := range groups {
		used[ck.name] = true
		t.Run(ck.name, func(t *testing.T) {
			if why := cfg.Skip[ck.name]; why != "" {
				t.Skip("server differs: " + why)
			}
			ck.run(&suite{T: t, cfg: cfg, opts: opts, c: c, bucket: bucket})
		})
	}
	for name := range cfg.Skip {
		if !used[name] {
			t.Errorf("Skip names a check that does not exist: %q", name)
		}
	}
}

func bucketMaker(c *s3.Client) func(*testing.T, bool) string {
	n := 0
	return func(t *testing.T, versioned bool) string {
		t.Helper()
		n++
		name := fmt.Sprintf("conformance-%d", n)
		if _, err := c.CreateBucket(t.Context(), &s3.CreateBucketInput{Bucket: &name}); err != nil {
			t.Fatal("CreateBucket:", err)
		}
		if versioned {
			_, err := c.PutBucketVersioning(t.Context(), &s3.PutBucketVersioningInput{
				Bucket: &name, VersioningConfiguration: &types.VersioningConfiguration{Status: types.BucketVersioningStatusEnabled},
			})
			if err != nil {
				t.Fatal("PutBucketVersioning:", err)
			}
		}
		return name
	}
}

func (s *suite) ctx() context.Context { return s.Context() }

// put stores an object and returns its ETag.
func (s *suite) put(key string, body []byte) string {
	s.Helper()
	out, err := s.c.PutObject(s.ctx(), &s3.PutObjectInput{Bucket: &s.bucket, Key: &key, Body: bytes.NewReader(body)})
	s.ok(err, "PutObject %q", key)
	return aws.ToString(out.ETag)
}

// get fetches an object and its body.
func (s *suite) get(in *s3.GetObjectInput) (*s3.GetObjectOutput, []byte) {
	s.Helper()
	in.Bucket = &s.bucket
	out, err := s.c.GetObject(s.ctx(), in)
	s.ok(err, "GetObject %q", aws.ToString(in.Key))
	defer out.Body.Close()
	body, err := io.ReadAll(out.Body)
	s.ok(err, "body of %q", aws.ToString(in.Key))
	return out, body
}

func (s *suite) ok(err error, format string, args ...any) {
	s.Helper()
	if err != nil {
		s.Fatalf(format+": %v", append(args, err)...)
	}
}

// fails asserts the status, and the code unless it is "" (HEAD answers have no
// body and hence no code).
func (s *suite) fails(err error, status int, code string) {
	s.Helper()
	if err == nil {
		s.Fatalf("no error, want %d %s", status, code)
	}
	var re *smithyhttp.ResponseError
	if !errors.As(err, &re) || re.HTTPStatusCode() != status {
		s.Errorf("error %v, want status %d", err, status)
	}
	var ae smithy.APIError
	if code != "" && (!errors.As(err, &ae) || ae.ErrorCode() != code) {
		s.Errorf("error %v, want code %s", err, code)
	}
}

func (s *suite) same(what string, got, want any) {
	s.Helper()
	if g, ok := got.([]byte); ok {
		if w, _ := want.([]byte); !bytes.Equal(g, w) {
			s.Errorf("%s: %d bytes differ from the %d expected", what, len(g), len(w))
		}
		return
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		s.Errorf("%s = %v, want %v", what, got, want)
	}
}

// sample returns n bytes that differ from every copy shifted by a power of two.
func sample(n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(i * 7 % 251)
	}
	return p
}
