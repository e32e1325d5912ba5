package s3conformance

import (
	"crypto/md5"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
)

// partSize is the smallest size that S3 allows for parts other than the last.
const partSize = 5 << 20

// multipart uploads data in parts of partSize and returns the answer to the
// completion.
func (s *suite) multipart(key string, data []byte, a types.ChecksumAlgorithm, ct types.ChecksumType) *s3.CompleteMultipartUploadOutput {
	s.Helper()
	id, parts := s.parts(key, data, a, ct)
	out, err := s.c.CompleteMultipartUpload(s.ctx(), &s3.CompleteMultipartUploadInput{
		Bucket: &s.bucket, Key: &key, UploadId: &id, ChecksumType: ct,
		MultipartUpload: &types.CompletedMultipartUpload{Parts: parts},
	})
	s.ok(err, "CompleteMultipartUpload")
	return out
}

func (s *suite) parts(key string, data []byte, a types.ChecksumAlgorithm, ct types.ChecksumType) (string, []types.CompletedPart) {
	s.Helper()
	created, err := s.c.CreateMultipartUpload(s.ctx(), &s3.CreateMultipartUploadInput{
		Bucket: &s.bucket, Key: &key, ChecksumAlgorithm: a, ChecksumType: ct,
	})
	s.ok(err, "CreateMultipartUpload")
	var parts []types.CompletedPart
	for n := int32(1); len(data) > 0; n++ {
		body := data[:min(len(data), partSize)]
		data = data[len(body):]
		out, err := s.c.UploadPart(s.ctx(), &s3.UploadPartInput{
			Bucket: &s.bucket, Key: &key, UploadId: created.UploadId, PartNumber: &n, Body: readerOf(body), ChecksumAlgorithm: a,
		})
		s.ok(err, "UploadPart %d", n)
		parts = append(parts, types.CompletedPart{
			PartNumber: aws.Int32(n), ETag: out.ETag, ChecksumCRC32: out.ChecksumCRC32, ChecksumCRC32C: out.ChecksumCRC32C,
			ChecksumCRC64NVME: out.ChecksumCRC64NVME, ChecksumSHA256: out.ChecksumSHA256,
		})
	}
	return aws.ToString(created.UploadId), parts
}

var multipartChecks = []check{
	{"multipart/etag-and-body", func(s *suite) {
		data := sample(partSize + 1000)
		out := s.multipart("mp/plain", data, "", "")
		a, b := md5.Sum(data[:partSize]), md5.Sum(data[partSize:])
		want := fmt.Sprintf(`"%x-2"`, md5.Sum(append(a[:], b[:]...)))
		s.same("ETag", aws.ToString(out.ETag), want)
		got, body := s.get(&s3.GetObjectInput{Key: aws.String("mp/plain")})
		s.same("ETag of GET", aws.ToString(got.ETag), want)
		s.same("body", body, data)
	}},
	{"multipart/range-across-parts", func(s *suite) {
		data := sample(partSize + 1000)
		s.multipart("mp/range", data, "", "")
		_, body := s.get(&s3.GetObjectInput{Key: aws.String("mp/range"), Range: aws.String(fmt.Sprintf("bytes=%d-%d", partSize-10, partSize+9))})
		s.same("body", body, data[partSize-10:partSize+10])
	}},
	{"multipart/part-number", func(s *suite) {
		data := sample(partSize + 1000)
		s.multipart("mp/part", data, "", "")
		out, body := s.get(&s3.GetObjectInput{Key: aws.String("mp/part"), PartNumber: aws.Int32(2)})
		s.same("body", body, data[partSize:])
		s.same("PartsCount", aws.ToInt32(out.PartsCount), 2)
		s.same("ContentRange", aws.ToString(out.ContentRange), fmt.Sprintf("bytes %d-%d/%d", partSize, len(data)-1, len(data)))
		head, err := s.c.HeadObject(s.ctx(), &s3.HeadObjectInput{Bucket: &s.bucket, Key: aws.String("mp/part"), PartNumber: aws.Int32(1)})
		s.ok(err, "HeadObject of part 1")
		s.same("length of part 1", aws.ToInt64(head.ContentLength), partSize)
		s.same("PartsCount of HEAD", aws.ToInt32(head.PartsCount), 2)
		_, err = s.c.GetObject(s.ctx(), &s3.GetObjectInput{Bucket: &s.bucket, Key: aws.String("mp/part"), PartNumber: aws.Int32(3)})
		s.fails(err, 416, "")
	}},
	{"multipart/full-object-crc64nvme", func(s *suite) {
		data := sample(partSize + 1000)
		s.multipart("mp/crc64", data, types.ChecksumAlgorithmCrc64nvme, types.ChecksumTypeFullObject)
		head, err := s.c.HeadObject(s.ctx(), &s3.HeadObjectInput{Bucket: &s.bucket, Key: aws.String("mp/crc64"), ChecksumMode: types.ChecksumModeEnabled})
		s.ok(err, "HeadObject")
		s.same("CRC64NVME", aws.ToString(head.ChecksumCRC64NVME), crc64Base64(data))
		s.same("type", head.ChecksumType, types.ChecksumTypeFullObject)
		_, body := s.get(&s3.GetObjectInput{Key: aws.String("mp/crc64"), ChecksumMode: types.ChecksumModeEnabled}) // verified by the SDK
		s.same("body", body, data)
	}},
	{"multipart/full-object-crc32c", func(s *suite) {
		data := sample(partSize + 1000)
		s.multipart("mp/crc32c-full", data, types.ChecksumAlgorithmCrc32c, types.ChecksumTypeFullObject)
		out, body := s.get(&s3.GetObjectInput{Key: aws.String("mp/crc32c-full"), ChecksumMode: types.ChecksumModeEnabled}) // verified
		s.same("body", body, data)
		s.same("type", out.ChecksumType, types.ChecksumTypeFullObject)
	}},
	{"multipart/composite", func(s *suite) {
		data := sample(partSize + 1000)
		for _, a := range []types.ChecksumAlgorithm{types.ChecksumAlgorithmCrc32c, types.ChecksumAlgorithmSha256} {
			key := "mp/composite-" + string(a)
			s.multipart(key, data, a, types.ChecksumTypeComposite)
			head, err := s.c.HeadObject(s.ctx(), &s3.HeadObjectInput{Bucket: &s.bucket, Key: &key, ChecksumMode: types.ChecksumModeEnabled})
			s.ok(err, "HeadObject")
			sum := aws.ToString(head.ChecksumCRC32C) + aws.ToString(head.ChecksumSHA256)
			if len(sum) < 2 || sum[len(sum)-2:] != "-2" {
				s.Errorf("%s: composite checksum %q does not end in -2", a, sum)
			}
			s.same("type", head.ChecksumType, types.ChecksumTypeComposite)
		}
	}},
	{"multipart/list-parts", func(s *suite) {
		key := "mp/list-parts"
		id, parts := s.parts(key, sample(2*partSize+5), "", "")
		out, err := s.c.ListParts(s.ctx(), &s3.ListPartsInput{Bucket: &s.bucket, Key: &key, UploadId: &id, MaxParts: aws.Int32(2)})
		s.ok(err, "ListParts")
		s.same("parts", len(out.Parts), 2)
		s.same("truncated", aws.ToBool(out.IsTruncated), true)
		s.same("ETag", aws.ToString(out.Parts[1].ETag), aws.ToString(parts[1].ETag))
		out, err = s.c.ListParts(s.ctx(), &s3.ListPartsInput{Bucket: &s.bucket, Key: &key, UploadId: &id, PartNumberMarker: out.NextPartNumberMarker})
		s.ok(err, "ListParts")
		s.same("parts", len(out.Parts), 1)
		s.same("size", aws.ToInt64(out.Parts[0].Size), 5)
		uploads, err := s.c.ListMultipartUploads(s.ctx(), &s3.ListMultipartUploadsInput{Bucket: &s.bucket, Prefix: &key})
		s.ok(err, "ListMultipartUploads")
		s.same("uploads", len(uploads.Uploads), 1)
		_, err = s.c.AbortMultipartUpload(s.ctx(), &s3.AbortMultipartUploadInput{Bucket: &s.bucket, Key: &key, UploadId: &id})
		s.ok(err, "AbortMultipartUpload")
		_, err = s.c.ListParts(s.ctx(), &s3.ListPartsInput{Bucket: &s.bucket, Key: &key, UploadId: &id})
		s.fails(err, 404, "NoSuchUpload")
	}},
	{"multipart/errors", func(s *suite) {
		key := "mp/errors"
		id, parts := s.parts(key, sample(2*partSize), "", "")
		complete := func(parts ...types.CompletedPart) error {
			_, err := s.c.CompleteMultipartUpload(s.ctx(), &s3.CompleteMultipartUploadInput{
				Bucket: &s.bucket, Key: &key, UploadId: &id, MultipartUpload: &types.CompletedMultipartUpload{Parts: parts},
			})
			return err
		}
		s.fails(complete(types.CompletedPart{PartNumber: aws.Int32(1), ETag: aws.String(`"00"`)}), 400, "InvalidPart")
		s.fails(complete(types.CompletedPart{PartNumber: aws.Int32(9), ETag: parts[0].ETag}), 400, "InvalidPart")
		s.fails(complete(parts[1], parts[0]), 400, "InvalidPartOrder")
		s.ok(complete(parts...), "CompleteMultipartUpload after refusals")
	}},
	{"multipart/too-small", func(s *suite) {
		key := "mp/too-small"
		created, err := s.c.CreateMultipartUpload(s.ctx(), &s3.CreateMultipartUploadInput{Bucket: &s.bucket, Key: &key})
		s.ok(err, "CreateMultipartUpload")
		var parts []types.CompletedPart
		for n := int32(1); n <= 2; n++ {
			out, err := s.c.UploadPart(s.ctx(), &s3.UploadPartInput{
				Bucket: &s.bucket, Key: &key, UploadId: created.UploadId, PartNumber: &n, Body: readerOf(sample(100)),
			})
			s.ok(err, "UploadPart")
			parts = append(parts, types.CompletedPart{PartNumber: aws.Int32(n), ETag: out.ETag})
		}
		_, err = s.c.CompleteMultipartUpload(s.ctx(), &s3.CompleteMultipartUploadInput{
			Bucket: &s.bucket, Key: &key, UploadId: created.UploadId, MultipartUpload: &types.CompletedMultipartUpload{Parts: parts},
		})
		s.fails(err, 400, "EntityTooSmall")
	}},
	{"multipart/copy-part", func(s *suite) {
		data := sample(partSize)
		s.put("mp/copy-source", data)
		key := "mp/copy-part"
		created, err := s.c.CreateMultipartUpload(s.ctx(), &s3.CreateMultipartUploadInput{Bucket: &s.bucket, Key: &key})
		s.ok(err, "CreateMultipartUpload")
		out, err := s.c.UploadPartCopy(s.ctx(), &s3.UploadPartCopyInput{
			Bucket: &s.bucket, Key: &key, UploadId: created.UploadId, PartNumber: aws.Int32(1),
			CopySource: aws.String(s.bucket + "/mp/copy-source"), CopySourceRange: aws.String("bytes=100-299"),
		})
		s.ok(err, "UploadPartCopy")
		_, err = s.c.CompleteMultipartUpload(s.ctx(), &s3.CompleteMultipartUploadInput{
			Bucket: &s.bucket, Key: &key, UploadId: created.UploadId,
			MultipartUpload: &types.CompletedMultipartUpload{Parts: []types.CompletedPart{{PartNumber: aws.Int32(1), ETag: out.CopyPartResult.ETag}}},
		})
		s.ok(err, "CompleteMultipartUpload")
		_, body := s.get(&s3.GetObjectInput{Key: &key})
		s.same("body", body, data[100:300])
	}},
	{"multipart/attributes", func(s *suite) {
		key := "mp/attributes"
		s.multipart(key, sample(partSize+7), types.ChecksumAlgorithmCrc32c, types.ChecksumTypeComposite)
		out, err := s.c.GetObjectAttributes(s.ctx(), &s3.GetObjectAttributesInput{
			Bucket: &s.bucket, Key: &key, ObjectAttributes: []types.ObjectAttributes{types.ObjectAttributesObjectParts, types.ObjectAttributesChecksum},
		})
		s.ok(err, "GetObjectAttributes")
		if out.ObjectParts == nil || out.Checksum == nil {
			s.Fatal("no parts or no checksum")
		}
		s.same("parts", aws.ToInt32(out.ObjectParts.TotalPartsCount), 2)
		s.same("listed", len(out.ObjectParts.Parts), 2)
	}},
}
