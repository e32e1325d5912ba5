package s3conformance

import (
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
)

// versioned returns s on a new bucket with versions.
func (s *suite) versioned() *suite {
	v := *s
	v.bucket = s.cfg.NewBucket(s.T, true)
	return &v
}

var versionChecks = []check{
	{"versions/get", func(s *suite) {
		s = s.versioned()
		key := aws.String("k")
		var ids []*string
		for n := 1; n <= 2; n++ {
			out, err := s.c.PutObject(s.ctx(), &s3.PutObjectInput{Bucket: &s.bucket, Key: key, Body: readerOf(sample(n * 100))})
			s.ok(err, "PutObject")
			ids = append(ids, out.VersionId)
		}
		out, body := s.get(&s3.GetObjectInput{Key: key})
		s.same("newest", len(body), 200)
		s.same("its id", aws.ToString(out.VersionId), aws.ToString(ids[1]))
		_, body = s.get(&s3.GetObjectInput{Key: key, VersionId: ids[0]})
		s.same("oldest", len(body), 100)
		head, err := s.c.HeadObject(s.ctx(), &s3.HeadObjectInput{Bucket: &s.bucket, Key: key, VersionId: ids[0]})
		s.ok(err, "HeadObject")
		s.same("length", aws.ToInt64(head.ContentLength), 100)
	}},
	{"versions/missing", func(s *suite) {
		s = s.versioned()
		s.put("k", nil)
		// A well-formed id of a version that existed before.
		out, err := s.c.PutObject(s.ctx(), &s3.PutObjectInput{Bucket: &s.bucket, Key: aws.String("k"), Body: readerOf(nil)})
		s.ok(err, "PutObject")
		_, err = s.c.DeleteObject(s.ctx(), &s3.DeleteObjectInput{Bucket: &s.bucket, Key: aws.String("k"), VersionId: out.VersionId})
		s.ok(err, "DeleteObject of a version")
		_, err = s.c.GetObject(s.ctx(), &s3.GetObjectInput{Bucket: &s.bucket, Key: aws.String("k"), VersionId: out.VersionId})
		s.fails(err, 404, "NoSuchVersion")
	}},
	{"versions/delete-marker", func(s *suite) {
		s = s.versioned()
		key := aws.String("k")
		s.put(*key, sample(10))
		del, err := s.c.DeleteObject(s.ctx(), &s3.DeleteObjectInput{Bucket: &s.bucket, Key: key})
		s.ok(err, "DeleteObject")
		s.same("marker", aws.ToBool(del.DeleteMarker), true)
		_, err = s.c.GetObject(s.ctx(), &s3.GetObjectInput{Bucket: &s.bucket, Key: key})
		s.fails(err, 404, "NoSuchKey")
		list, err := s.c.ListObjectsV2(s.ctx(), &s3.ListObjectsV2Input{Bucket: &s.bucket})
		s.ok(err, "ListObjectsV2")
		s.same("listed", len(list.Contents), 0)
		_, err = s.c.DeleteObject(s.ctx(), &s3.DeleteObjectInput{Bucket: &s.bucket, Key: key, VersionId: del.VersionId})
		s.ok(err, "DeleteObject of the marker")
		_, body := s.get(&s3.GetObjectInput{Key: key})
		s.same("undeleted", len(body), 10)
	}},
	{"versions/list", func(s *suite) { s.listVersions(1000) }},
	{"versions/list-pages", func(s *suite) { s.listVersions(1) }},
	{"versions/state", func(s *suite) {
		s = s.versioned()
		out, err := s.c.GetBucketVersioning(s.ctx(), &s3.GetBucketVersioningInput{Bucket: &s.bucket})
		s.ok(err, "GetBucketVersioning")
		s.same("state", out.Status, types.BucketVersioningStatusEnabled)
	}},
}

// listVersions checks a listing of two versions of one key and a deleted other one.
func (s *suite) listVersions(pageSize int32) {
	s = s.versioned()
	s.put("a", sample(1))
	s.put("a", sample(2))
	s.put("b", sample(3))
	_, err := s.c.DeleteObject(s.ctx(), &s3.DeleteObjectInput{Bucket: &s.bucket, Key: aws.String("b")})
	s.ok(err, "DeleteObject")
	in := &s3.ListObjectVersionsInput{Bucket: &s.bucket, MaxKeys: &pageSize}
	var sizes []int64
	markers, latest := 0, 0
	for range 10 {
		out, err := s.c.ListObjectVersions(s.ctx(), in)
		s.ok(err, "ListObjectVersions")
		for _, v := range out.Versions {
			sizes = append(sizes, aws.ToInt64(v.Size))
			if aws.ToBool(v.IsLatest) {
				latest++
			}
		}
		markers += len(out.DeleteMarkers)
		if !aws.ToBool(out.IsTruncated) {
			break
		}
		in.KeyMarker, in.VersionIdMarker = out.NextKeyMarker, out.NextVersionIdMarker
	}
	s.same("sizes", sizes, []int64{2, 1, 3})
	s.same("markers", markers, 1)
	s.same("latest", latest, 1)
}

var bucketChecks = []check{
	{"bucket/head", func(s *suite) {
		_, err := s.c.HeadBucket(s.ctx(), &s3.HeadBucketInput{Bucket: &s.bucket})
		s.ok(err, "HeadBucket")
		_, err = s.c.HeadBucket(s.ctx(), &s3.HeadBucketInput{Bucket: aws.String("no-such-bucket-here")})
		s.fails(err, 404, "")
	}},
	{"bucket/location", func(s *suite) {
		out, err := s.c.GetBucketLocation(s.ctx(), &s3.GetBucketLocationInput{Bucket: &s.bucket})
		s.ok(err, "GetBucketLocation")
		s.same("location", out.LocationConstraint, "")
	}},
	{"bucket/list", func(s *suite) {
		out, err := s.c.ListBuckets(s.ctx(), &s3.ListBucketsInput{})
		s.ok(err, "ListBuckets")
		found := false
		for _, b := range out.Buckets {
			found = found || aws.ToString(b.Name) == s.bucket
		}
		s.same("own bucket listed", found, true)
	}},
	{"bucket/delete", func(s *suite) {
		s.bucket = s.cfg.NewBucket(s.T, false)
		s.put("k", nil)
		_, err := s.c.DeleteBucket(s.ctx(), &s3.DeleteBucketInput{Bucket: &s.bucket})
		s.fails(err, 409, "BucketNotEmpty")
		_, err = s.c.DeleteObject(s.ctx(), &s3.DeleteObjectInput{Bucket: &s.bucket, Key: aws.String("k")})
		s.ok(err, "DeleteObject")
		_, err = s.c.DeleteBucket(s.ctx(), &s3.DeleteBucketInput{Bucket: &s.bucket})
		s.ok(err, "DeleteBucket")
	}},
	{"bucket/create-twice", func(s *suite) {
		_, err := s.c.CreateBucket(s.ctx(), &s3.CreateBucketInput{Bucket: &s.bucket})
		s.fails(err, 409, "BucketAlreadyOwnedByYou")
	}},
}
