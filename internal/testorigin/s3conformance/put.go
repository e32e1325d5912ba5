package s3conformance

import (
	"bytes"
	"crypto/md5"
	"encoding/base64"
	"io"
	"net/http"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/minio/crc64nvme"
)

func readerOf(p []byte) io.Reader { return bytes.NewReader(p) }

func crc64Base64(p []byte) string {
	h := crc64nvme.New()
	h.Write(p)
	return base64.StdEncoding.EncodeToString(h.Sum(nil))
}

// other returns a client with other credentials.
func (s *suite) other(accessKey, secretKey string) *s3.Client {
	o := s.opts
	o.Credentials = credentials.NewStaticCredentialsProvider(accessKey, secretKey, "")
	return s3.New(o)
}

// raw sends a request without the SDK.
func (s *suite) raw(method, url string, header http.Header) (int, []byte) {
	s.Helper()
	req, err := http.NewRequestWithContext(s.ctx(), method, url, nil)
	s.ok(err, "request")
	req.Header = header.Clone()
	req.Header.Del("Host")
	resp, err := s.opts.HTTPClient.Do(req)
	s.ok(err, "%s", method)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	s.ok(err, "body")
	return resp.StatusCode, body
}

var putChecks = []check{
	{"put/metadata", func(s *suite) {
		key := aws.String("put/metadata")
		_, err := s.c.PutObject(s.ctx(), &s3.PutObjectInput{
			Bucket: &s.bucket, Key: key, Body: readerOf(sample(10)), ContentType: aws.String("text/x-test"),
			ContentEncoding: aws.String("gzip"), CacheControl: aws.String("max-age=5"), Metadata: map[string]string{"colour": "blue"},
		})
		s.ok(err, "PutObject")
		out, err := s.c.HeadObject(s.ctx(), &s3.HeadObjectInput{Bucket: &s.bucket, Key: key})
		s.ok(err, "HeadObject")
		s.same("type", aws.ToString(out.ContentType), "text/x-test")
		s.same("encoding", aws.ToString(out.ContentEncoding), "gzip")
		s.same("cache", aws.ToString(out.CacheControl), "max-age=5")
		s.same("metadata", out.Metadata["colour"], "blue")
	}},
	{"put/large", func(s *suite) {
		data := sample(3 << 20)
		s.put("put/large", data)
		_, got := s.get(&s3.GetObjectInput{Key: aws.String("put/large")})
		s.same("body", got, data)
	}},
	{"put/content-md5", func(s *suite) {
		key, data := aws.String("put/md5"), sample(1000)
		sum := md5.Sum(data)
		good := base64.StdEncoding.EncodeToString(sum[:])
		_, err := s.c.PutObject(s.ctx(), &s3.PutObjectInput{Bucket: &s.bucket, Key: key, Body: readerOf(data), ContentMD5: &good})
		s.ok(err, "PutObject with the right Content-MD5")
		_, err = s.c.PutObject(s.ctx(), &s3.PutObjectInput{Bucket: &s.bucket, Key: key, Body: readerOf(data[1:]), ContentMD5: &good})
		s.fails(err, 400, "BadDigest")
	}},
	{"put/checksums", func(s *suite) {
		for _, a := range []types.ChecksumAlgorithm{
			types.ChecksumAlgorithmCrc32, types.ChecksumAlgorithmCrc32c, types.ChecksumAlgorithmSha1, types.ChecksumAlgorithmSha256, types.ChecksumAlgorithmCrc64nvme,
		} {
			key := aws.String("put/checksum-" + string(a))
			put, err := s.c.PutObject(s.ctx(), &s3.PutObjectInput{Bucket: &s.bucket, Key: key, Body: readerOf(sample(777)), ChecksumAlgorithm: a})
			s.ok(err, "PutObject %s", a)
			out, body := s.get(&s3.GetObjectInput{Key: key, ChecksumMode: types.ChecksumModeEnabled}) // the SDK verifies it
			s.same("length", len(body), 777)
			got := map[types.ChecksumAlgorithm]*string{
				types.ChecksumAlgorithmCrc32: out.ChecksumCRC32, types.ChecksumAlgorithmCrc32c: out.ChecksumCRC32C,
				types.ChecksumAlgorithmSha1: out.ChecksumSHA1, types.ChecksumAlgorithmSha256: out.ChecksumSHA256,
				types.ChecksumAlgorithmCrc64nvme: out.ChecksumCRC64NVME,
			}[a]
			if aws.ToString(got) == "" {
				s.Errorf("%s: GET gives no checksum back", a)
			}
			_ = put
		}
	}},
	{"put/bad-checksum", func(s *suite) {
		_, err := s.c.PutObject(s.ctx(), &s3.PutObjectInput{
			Bucket: &s.bucket, Key: aws.String("put/bad-checksum"), Body: readerOf(sample(100)), ChecksumCRC32C: aws.String("AAAAAA=="),
		})
		s.fails(err, 400, "BadDigest")
		_, err = s.c.HeadObject(s.ctx(), &s3.HeadObjectInput{Bucket: &s.bucket, Key: aws.String("put/bad-checksum")})
		s.fails(err, 404, "")
	}},
	{"put/if-none-match", func(s *suite) {
		key := aws.String("put/if-none-match")
		in := func() *s3.PutObjectInput {
			return &s3.PutObjectInput{Bucket: &s.bucket, Key: key, Body: readerOf(sample(50)), IfNoneMatch: aws.String("*")}
		}
		_, err := s.c.PutObject(s.ctx(), in())
		s.ok(err, "first PutObject")
		_, err = s.c.PutObject(s.ctx(), in())
		s.fails(err, 412, "PreconditionFailed")
	}},
	{"put/if-match", func(s *suite) {
		key := aws.String("put/if-match")
		etag := s.put(*key, sample(50))
		_, err := s.c.PutObject(s.ctx(), &s3.PutObjectInput{Bucket: &s.bucket, Key: key, Body: readerOf(sample(51)), IfMatch: &etag})
		s.ok(err, "PutObject with the right ETag")
		_, err = s.c.PutObject(s.ctx(), &s3.PutObjectInput{Bucket: &s.bucket, Key: key, Body: readerOf(sample(52)), IfMatch: &etag})
		s.fails(err, 412, "PreconditionFailed")
		_, got := s.get(&s3.GetObjectInput{Key: key})
		s.same("length", len(got), 51)
	}},
	{"put/if-match-missing", func(s *suite) {
		_, err := s.c.PutObject(s.ctx(), &s3.PutObjectInput{
			Bucket: &s.bucket, Key: aws.String("put/if-match-missing"), Body: readerOf(nil), IfMatch: aws.String(`"00"`),
		})
		s.fails(err, 404, "NoSuchKey")
	}},
	{"put/delete", func(s *suite) {
		key := aws.String("put/delete")
		s.put(*key, sample(5))
		_, err := s.c.DeleteObject(s.ctx(), &s3.DeleteObjectInput{Bucket: &s.bucket, Key: key})
		s.ok(err, "DeleteObject")
		_, err = s.c.HeadObject(s.ctx(), &s3.HeadObjectInput{Bucket: &s.bucket, Key: key})
		s.fails(err, 404, "")
		_, err = s.c.DeleteObject(s.ctx(), &s3.DeleteObjectInput{Bucket: &s.bucket, Key: key})
		s.ok(err, "DeleteObject of a missing key")
	}},
	{"put/delete-objects", func(s *suite) {
		var ids []types.ObjectIdentifier
		for _, k := range []string{"put/bulk/a", "put/bulk/b c", "put/bulk/ü"} {
			s.put(k, sample(5))
			ids = append(ids, types.ObjectIdentifier{Key: aws.String(k)})
		}
		out, err := s.c.DeleteObjects(s.ctx(), &s3.DeleteObjectsInput{Bucket: &s.bucket, Delete: &types.Delete{Objects: ids}})
		s.ok(err, "DeleteObjects")
		s.same("deleted", len(out.Deleted), 3)
		s.same("errors", len(out.Errors), 0)
		list, err := s.c.ListObjectsV2(s.ctx(), &s3.ListObjectsV2Input{Bucket: &s.bucket, Prefix: aws.String("put/bulk/")})
		s.ok(err, "ListObjectsV2")
		s.same("left", len(list.Contents), 0)
	}},
	{"put/copy", func(s *suite) {
		data := sample(4000)
		etag := s.put("put/copy source", data)
		out, err := s.c.CopyObject(s.ctx(), &s3.CopyObjectInput{
			Bucket: &s.bucket, Key: aws.String("put/copy-target"), CopySource: aws.String(s.bucket + "/put/copy%20source"),
		})
		s.ok(err, "CopyObject")
		s.same("ETag", aws.ToString(out.CopyObjectResult.ETag), etag)
		_, got := s.get(&s3.GetObjectInput{Key: aws.String("put/copy-target")})
		s.same("body", got, data)
		_, err = s.c.CopyObject(s.ctx(), &s3.CopyObjectInput{
			Bucket: &s.bucket, Key: aws.String("put/copy-target"), CopySource: aws.String(s.bucket + "/put/no/such"),
		})
		s.fails(err, 404, "NoSuchKey")
	}},
}
