package s3conformance

import (
	"crypto/md5"
	"encoding/hex"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
)

var getChecks = []check{
	{"get/whole", func(s *suite) {
		data := sample(100_000)
		etag := s.put("get/whole", data)
		out, got := s.get(&s3.GetObjectInput{Key: aws.String("get/whole")})
		s.same("body", got, data)
		sum := md5.Sum(data)
		s.same("ETag", aws.ToString(out.ETag), `"`+hex.EncodeToString(sum[:])+`"`)
		s.same("ETag of PUT", etag, aws.ToString(out.ETag))
		s.same("ContentLength", aws.ToInt64(out.ContentLength), len(data))
		s.same("AcceptRanges", aws.ToString(out.AcceptRanges), "bytes")
		s.same("age below an hour", time.Since(aws.ToTime(out.LastModified)) < time.Hour, true)
	}},
	{"get/empty", func(s *suite) {
		s.put("get/empty", nil)
		out, got := s.get(&s3.GetObjectInput{Key: aws.String("get/empty")})
		s.same("length", len(got), 0)
		s.same("ETag", aws.ToString(out.ETag), `"d41d8cd98f00b204e9800998ecf8427e"`)
	}},
	{"get/ranges", func(s *suite) {
		data := sample(10_000)
		key := aws.String("get/ranges")
		s.put(*key, data)
		for _, c := range []struct {
			rng      string
			from, to int
			cr       string
		}{
			{"bytes=0-0", 0, 1, "bytes 0-0/10000"},
			{"bytes=100-199", 100, 200, "bytes 100-199/10000"},
			{"bytes=9000-", 9000, 10000, "bytes 9000-9999/10000"},
			{"bytes=-500", 9500, 10000, "bytes 9500-9999/10000"},
			{"bytes=-20000", 0, 10000, "bytes 0-9999/10000"},
			{"bytes=9999-20000", 9999, 10000, "bytes 9999-9999/10000"},
		} {
			out, got := s.get(&s3.GetObjectInput{Key: key, Range: aws.String(c.rng)})
			s.same(c.rng+" body", got, data[c.from:c.to])
			s.same(c.rng+" Content-Range", aws.ToString(out.ContentRange), c.cr)
			s.same(c.rng+" Content-Length", aws.ToInt64(out.ContentLength), c.to-c.from)
		}
	}},
	{"get/range-416", func(s *suite) {
		key := aws.String("get/range-416")
		s.put(*key, sample(100))
		for _, rng := range []string{"bytes=100-", "bytes=100-200", "bytes=5000-6000"} {
			_, err := s.c.GetObject(s.ctx(), &s3.GetObjectInput{Bucket: &s.bucket, Key: key, Range: &rng})
			s.fails(err, 416, "InvalidRange")
		}
	}},
	{"get/range-of-empty-416", func(s *suite) {
		key := aws.String("get/range-of-empty")
		s.put(*key, nil)
		_, err := s.c.GetObject(s.ctx(), &s3.GetObjectInput{Bucket: &s.bucket, Key: key, Range: aws.String("bytes=0-10")})
		s.fails(err, 416, "InvalidRange")
	}},
	{"get/range-malformed-is-ignored", func(s *suite) {
		key := aws.String("get/range-malformed")
		s.put(*key, sample(100))
		_, got := s.get(&s3.GetObjectInput{Key: key, Range: aws.String("bytes=20-10")})
		s.same("length", len(got), 100)
	}},
	{"get/missing", func(s *suite) {
		_, err := s.c.GetObject(s.ctx(), &s3.GetObjectInput{Bucket: &s.bucket, Key: aws.String("get/no/such")})
		s.fails(err, 404, "NoSuchKey")
		_, err = s.c.GetObject(s.ctx(), &s3.GetObjectInput{Bucket: aws.String("no-such-bucket-here"), Key: aws.String("k")})
		s.fails(err, 404, "NoSuchBucket")
		_, err = s.c.HeadObject(s.ctx(), &s3.HeadObjectInput{Bucket: &s.bucket, Key: aws.String("get/no/such")})
		s.fails(err, 404, "")
	}},
	{"get/if-match", func(s *suite) {
		key := aws.String("get/if-match")
		etag := s.put(*key, sample(1000))
		_, got := s.get(&s3.GetObjectInput{Key: key, IfMatch: &etag, Range: aws.String("bytes=10-19")})
		s.same("length", len(got), 10)
		s.put(*key, sample(1001))
		_, err := s.c.GetObject(s.ctx(), &s3.GetObjectInput{Bucket: &s.bucket, Key: key, IfMatch: &etag, Range: aws.String("bytes=10-19")})
		s.fails(err, 412, "PreconditionFailed")
		_, err = s.c.HeadObject(s.ctx(), &s3.HeadObjectInput{Bucket: &s.bucket, Key: key, IfMatch: &etag})
		s.fails(err, 412, "")
	}},
	{"get/if-none-match", func(s *suite) {
		key := aws.String("get/if-none-match")
		etag := s.put(*key, sample(1000))
		_, err := s.c.GetObject(s.ctx(), &s3.GetObjectInput{Bucket: &s.bucket, Key: key, IfNoneMatch: &etag})
		s.fails(err, 304, "")
		_, err = s.c.HeadObject(s.ctx(), &s3.HeadObjectInput{Bucket: &s.bucket, Key: key, IfNoneMatch: &etag})
		s.fails(err, 304, "")
		s.get(&s3.GetObjectInput{Key: key, IfNoneMatch: aws.String(`"0123"`)})
	}},
	{"get/if-modified-since", func(s *suite) {
		key := aws.String("get/if-modified-since")
		s.put(*key, sample(1000))
		later, before := time.Now().Add(time.Hour), time.Now().Add(-24*time.Hour)
		s.get(&s3.GetObjectInput{Key: key, IfModifiedSince: &before})
		s.get(&s3.GetObjectInput{Key: key, IfUnmodifiedSince: &later})
		_, err := s.c.GetObject(s.ctx(), &s3.GetObjectInput{Bucket: &s.bucket, Key: key, IfUnmodifiedSince: &before})
		s.fails(err, 412, "PreconditionFailed")
	}},
	{"get/head", func(s *suite) {
		key := aws.String("get/head")
		etag := s.put(*key, sample(1234))
		out, err := s.c.HeadObject(s.ctx(), &s3.HeadObjectInput{Bucket: &s.bucket, Key: key})
		s.ok(err, "HeadObject")
		s.same("ContentLength", aws.ToInt64(out.ContentLength), 1234)
		s.same("ETag", aws.ToString(out.ETag), etag)
	}},
	{"get/head-range", func(s *suite) {
		key := aws.String("get/head-range")
		s.put(*key, sample(1234))
		out, err := s.c.HeadObject(s.ctx(), &s3.HeadObjectInput{Bucket: &s.bucket, Key: key, Range: aws.String("bytes=0-9")})
		s.ok(err, "HeadObject with a range")
		s.same("ContentLength", aws.ToInt64(out.ContentLength), 10)
		s.same("ContentRange", aws.ToString(out.ContentRange), "bytes 0-9/1234")
	}},
	{"get/checksum-mode", func(s *suite) {
		key := aws.String("get/checksum-mode")
		put, err := s.c.PutObject(s.ctx(), &s3.PutObjectInput{
			Bucket: &s.bucket, Key: key, Body: readerOf(sample(5000)), ChecksumAlgorithm: types.ChecksumAlgorithmCrc64nvme,
		})
		s.ok(err, "PutObject")
		out, _ := s.get(&s3.GetObjectInput{Key: key, ChecksumMode: types.ChecksumModeEnabled})
		s.same("CRC64NVME", aws.ToString(out.ChecksumCRC64NVME), crc64Base64(sample(5000)))
		s.same("CRC64NVME of PUT", aws.ToString(put.ChecksumCRC64NVME), crc64Base64(sample(5000)))
		head, err := s.c.HeadObject(s.ctx(), &s3.HeadObjectInput{Bucket: &s.bucket, Key: key, ChecksumMode: types.ChecksumModeEnabled})
		s.ok(err, "HeadObject")
		s.same("CRC64NVME of HEAD", aws.ToString(head.ChecksumCRC64NVME), crc64Base64(sample(5000)))
		s.same("type", head.ChecksumType, types.ChecksumTypeFullObject)
	}},
	{"get/checksum-not-on-ranges", func(s *suite) {
		key := aws.String("get/checksum-range")
		s.put(*key, sample(5000))
		out, got := s.get(&s3.GetObjectInput{Key: key, Range: aws.String("bytes=0-9"), ChecksumMode: types.ChecksumModeEnabled})
		s.same("length", len(got), 10)
		s.same("CRC32", aws.ToString(out.ChecksumCRC32), "")
	}},
	{"get/part-number-of-plain-object", func(s *suite) {
		key := aws.String("get/part-number")
		s.put(*key, sample(100))
		out, got := s.get(&s3.GetObjectInput{Key: key, PartNumber: aws.Int32(1)})
		s.same("length", len(got), 100)
		s.same("PartsCount", aws.ToInt32(out.PartsCount), 0)
	}},
	{"get/attributes", func(s *suite) {
		key := aws.String("get/attributes")
		etag := s.put(*key, sample(4321))
		out, err := s.c.GetObjectAttributes(s.ctx(), &s3.GetObjectAttributesInput{
			Bucket: &s.bucket, Key: key,
			ObjectAttributes: []types.ObjectAttributes{types.ObjectAttributesEtag, types.ObjectAttributesObjectSize, types.ObjectAttributesStorageClass},
		})
		s.ok(err, "GetObjectAttributes")
		s.same("size", aws.ToInt64(out.ObjectSize), 4321)
		s.same("ETag", `"`+aws.ToString(out.ETag)+`"`, etag)
		s.same("class", out.StorageClass, "STANDARD")
	}},
	{"get/response-overrides", func(s *suite) {
		key := aws.String("get/overrides")
		s.put(*key, sample(10))
		out, _ := s.get(&s3.GetObjectInput{Key: key, ResponseContentType: aws.String("text/x-test"), ResponseCacheControl: aws.String("no-store")})
		s.same("type", aws.ToString(out.ContentType), "text/x-test")
		s.same("cache", aws.ToString(out.CacheControl), "no-store")
	}},
	{"get/presigned", func(s *suite) {
		data := sample(2000)
		key := aws.String("get/pre signed+ü")
		s.put(*key, data)
		u, err := s3.NewPresignClient(s.c).PresignGetObject(s.ctx(), &s3.GetObjectInput{Bucket: &s.bucket, Key: key, Range: aws.String("bytes=5-9")})
		s.ok(err, "presign")
		status, body := s.raw(u.Method, u.URL, u.SignedHeader)
		s.same("status", status, 206)
		s.same("body", body, data[5:10])
		status, _ = s.raw(u.Method, u.URL+"0", u.SignedHeader)
		s.same("status with a spoilt signature", status/100, 4)
	}},
	{"get/wrong-secret", func(s *suite) {
		key := aws.String("get/wrong-secret")
		s.put(*key, sample(10))
		c := s.other(s.cfg.AccessKey, "not the secret")
		_, err := c.GetObject(s.ctx(), &s3.GetObjectInput{Bucket: &s.bucket, Key: key})
		s.fails(err, 403, "SignatureDoesNotMatch")
	}},
	{"get/unknown-access-key", func(s *suite) {
		key := aws.String("get/unknown-access-key")
		s.put(*key, sample(10))
		c := s.other("nobody", "not the secret")
		_, err := c.GetObject(s.ctx(), &s3.GetObjectInput{Bucket: &s.bucket, Key: key})
		s.fails(err, 403, "InvalidAccessKeyId")
	}},
}
