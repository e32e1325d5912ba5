package s3conformance

import (
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
)

// oddKeys need escaping in the URL, in the signature, in XML, or in
// encoding-type=url.
var oddKeys = []string{
	"odd/a b", "odd/a+b", "odd/a%20b", "odd/a&b<c>\"d'", "odd/ünï/日本", "odd/tilde~!$()*,:;=@[]", "odd/q?x#y", "odd/emoji-🚰",
}

// fill stores empty objects.
func (s *suite) fill(keys ...string) {
	s.Helper()
	for _, k := range keys {
		s.put(k, nil)
	}
}

// walk pages through a listing and returns keys and prefixes in the order of
// arrival.
func (s *suite) walk(in *s3.ListObjectsV2Input) (keys, prefixes []string, pages int) {
	s.Helper()
	in.Bucket = &s.bucket
	for {
		out, err := s.c.ListObjectsV2(s.ctx(), in)
		s.ok(err, "ListObjectsV2")
		pages++
		for _, o := range out.Contents {
			keys = append(keys, decoded(out.EncodingType, aws.ToString(o.Key)))
		}
		for _, p := range out.CommonPrefixes {
			prefixes = append(prefixes, decoded(out.EncodingType, aws.ToString(p.Prefix)))
		}
		s.same("KeyCount", aws.ToInt32(out.KeyCount), len(out.Contents)+len(out.CommonPrefixes))
		if !aws.ToBool(out.IsTruncated) {
			return keys, prefixes, pages
		}
		if next := aws.ToString(out.NextContinuationToken); next == "" || next == aws.ToString(in.ContinuationToken) {
			s.Fatalf("continuation token %q does not advance", next)
		}
		in.ContinuationToken = out.NextContinuationToken
	}
}

func decoded(et types.EncodingType, k string) string {
	if et == types.EncodingTypeUrl {
		if d, err := url.QueryUnescape(k); err == nil {
			return d
		}
	}
	return k
}

var listChecks = []check{
	{"list/pages", func(s *suite) {
		var want []string
		for i := range 25 {
			want = append(want, fmt.Sprintf("pages/%03d", i))
		}
		s.fill(want...)
		keys, _, pages := s.walk(&s3.ListObjectsV2Input{Prefix: aws.String("pages/"), MaxKeys: aws.Int32(7)})
		s.same("keys", keys, want)
		s.same("pages", pages, 4)
	}},
	{"list/exact-page", func(s *suite) {
		s.fill("exact/1", "exact/2", "exact/3")
		_, _, pages := s.walk(&s3.ListObjectsV2Input{Prefix: aws.String("exact/"), MaxKeys: aws.Int32(3)})
		s.same("pages", pages, 1)
	}},
	{"list/delimiter", func(s *suite) {
		s.fill("deli/a", "deli/b/1", "deli/b/2", "deli/c", "deli/d/e/f", "deli/e")
		keys, prefixes, _ := s.walk(&s3.ListObjectsV2Input{Prefix: aws.String("deli/"), Delimiter: aws.String("/")})
		s.same("keys", keys, []string{"deli/a", "deli/c", "deli/e"})
		s.same("prefixes", prefixes, []string{"deli/b/", "deli/d/"})
		for n := int32(1); n <= 5; n++ { // pages that end at a prefix must not repeat it
			keys, prefixes, _ = s.walk(&s3.ListObjectsV2Input{Prefix: aws.String("deli/"), Delimiter: aws.String("/"), MaxKeys: &n})
			s.same(fmt.Sprint("keys by ", n), keys, []string{"deli/a", "deli/c", "deli/e"})
			s.same(fmt.Sprint("prefixes by ", n), prefixes, []string{"deli/b/", "deli/d/"})
		}
	}},
	{"list/delimiter-other", func(s *suite) {
		s.fill("dash/a-1", "dash/a-2", "dash/b")
		keys, prefixes, _ := s.walk(&s3.ListObjectsV2Input{Prefix: aws.String("dash/"), Delimiter: aws.String("-")})
		s.same("keys", keys, []string{"dash/b"})
		s.same("prefixes", prefixes, []string{"dash/a-"})
	}},
	{"list/start-after", func(s *suite) {
		s.fill("after/1", "after/2", "after/3")
		keys, _, _ := s.walk(&s3.ListObjectsV2Input{Prefix: aws.String("after/"), StartAfter: aws.String("after/1")})
		s.same("keys", keys, []string{"after/2", "after/3"})
		keys, _, _ = s.walk(&s3.ListObjectsV2Input{Prefix: aws.String("after/"), StartAfter: aws.String("after/1x")})
		s.same("keys", keys, []string{"after/2", "after/3"})
	}},
	{"list/order", func(s *suite) {
		s.fill("order/a", "order/B", "order/b/b", "order/b-b", "order/ä")
		keys, _, _ := s.walk(&s3.ListObjectsV2Input{Prefix: aws.String("order/")})
		want := []string{"order/B", "order/a", "order/b-b", "order/b/b", "order/ä"}
		s.same("keys in byte order", keys, want)
	}},
	{"list/file-and-folder-of-one-name", func(s *suite) {
		s.fill("both/x", "both/x/y")
		keys, _, _ := s.walk(&s3.ListObjectsV2Input{Prefix: aws.String("both/")})
		s.same("keys", keys, []string{"both/x", "both/x/y"})
	}},
	{"list/contents", func(s *suite) {
		etag := s.put("contents/x", sample(321))
		out, err := s.c.ListObjectsV2(s.ctx(), &s3.ListObjectsV2Input{Bucket: &s.bucket, Prefix: aws.String("contents/"), FetchOwner: aws.Bool(true)})
		s.ok(err, "ListObjectsV2")
		if len(out.Contents) != 1 {
			s.Fatalf("%d keys, want 1", len(out.Contents))
		}
		o := out.Contents[0]
		s.same("Size", aws.ToInt64(o.Size), 321)
		s.same("ETag", aws.ToString(o.ETag), etag)
		s.same("class", o.StorageClass, "STANDARD")
		s.same("owner is there", o.Owner != nil, true)
	}},
	{"list/odd-keys", func(s *suite) {
		s.fill(oddKeys...)
		want := slices.Sorted(slices.Values(oddKeys))
		keys, _, _ := s.walk(&s3.ListObjectsV2Input{Prefix: aws.String("odd/"), MaxKeys: aws.Int32(3)})
		s.same("keys", keys, want)
		for _, k := range oddKeys {
			s.get(&s3.GetObjectInput{Key: aws.String(k)})
		}
	}},
	{"list/odd-keys-url-encoded", func(s *suite) {
		s.fill(oddKeys...)
		keys, _, _ := s.walk(&s3.ListObjectsV2Input{Prefix: aws.String("odd/"), EncodingType: types.EncodingTypeUrl, MaxKeys: aws.Int32(3)})
		s.same("keys", keys, slices.Sorted(slices.Values(oddKeys)))
		out, err := s.c.ListObjectsV2(s.ctx(), &s3.ListObjectsV2Input{Bucket: &s.bucket, Prefix: aws.String("odd/a b"), EncodingType: types.EncodingTypeUrl})
		s.ok(err, "ListObjectsV2")
		s.same("EncodingType", out.EncodingType, types.EncodingTypeUrl)
		if len(out.Contents) != 1 || strings.Contains(aws.ToString(out.Contents[0].Key), " ") {
			s.Errorf("a space in an encoded key: %v", out.Contents)
		}
	}},
	{"list/control-characters", func(s *suite) {
		want := []string{"ctl/a\x01b", "ctl/a\tb", "ctl/line\nbreak"}
		s.fill(want...)
		keys, _, _ := s.walk(&s3.ListObjectsV2Input{Prefix: aws.String("ctl/"), EncodingType: types.EncodingTypeUrl})
		s.same("keys", fmt.Sprintf("%q", keys), fmt.Sprintf("%q", want))
	}},
	{"list/double-slash", func(s *suite) {
		s.fill("slash//double", "slash/single")
		keys, _, _ := s.walk(&s3.ListObjectsV2Input{Prefix: aws.String("slash/")})
		s.same("keys", keys, []string{"slash//double", "slash/single"})
		_, prefixes, _ := s.walk(&s3.ListObjectsV2Input{Prefix: aws.String("slash/"), Delimiter: aws.String("/")})
		s.same("prefixes", prefixes, []string{"slash//"})
		s.get(&s3.GetObjectInput{Key: aws.String("slash//double")})
	}},
	{"list/trailing-slash", func(s *suite) {
		s.fill("trail/dir/", "trail/dir/x")
		keys, _, _ := s.walk(&s3.ListObjectsV2Input{Prefix: aws.String("trail/")})
		s.same("keys", keys, []string{"trail/dir/", "trail/dir/x"})
		keys, prefixes, _ := s.walk(&s3.ListObjectsV2Input{Prefix: aws.String("trail/"), Delimiter: aws.String("/")})
		s.same("keys at the top", len(keys), 0)
		s.same("prefixes", prefixes, []string{"trail/dir/"})
		keys, _, _ = s.walk(&s3.ListObjectsV2Input{Prefix: aws.String("trail/dir/"), Delimiter: aws.String("/")})
		s.same("keys inside", keys, []string{"trail/dir/", "trail/dir/x"})
		out, _ := s.get(&s3.GetObjectInput{Key: aws.String("trail/dir/")})
		s.same("length of the marker", aws.ToInt64(out.ContentLength), 0)
	}},
	{"list/v1", func(s *suite) {
		s.fill("v1/a", "v1/b/c", "v1/d")
		var got []string
		marker := ""
		for {
			out, err := s.c.ListObjects(s.ctx(), &s3.ListObjectsInput{
				Bucket: &s.bucket, Prefix: aws.String("v1/"), Delimiter: aws.String("/"), MaxKeys: aws.Int32(1), Marker: &marker,
			})
			s.ok(err, "ListObjects")
			for _, o := range out.Contents {
				got = append(got, aws.ToString(o.Key))
			}
			for _, p := range out.CommonPrefixes {
				got = append(got, aws.ToString(p.Prefix))
			}
			if !aws.ToBool(out.IsTruncated) {
				break
			}
			if aws.ToString(out.NextMarker) <= marker {
				s.Fatalf("marker %q does not advance", aws.ToString(out.NextMarker))
			}
			marker = aws.ToString(out.NextMarker)
		}
		s.same("keys and prefixes", got, []string{"v1/a", "v1/b/", "v1/d"})
	}},
	{"list/missing-bucket", func(s *suite) {
		_, err := s.c.ListObjectsV2(s.ctx(), &s3.ListObjectsV2Input{Bucket: aws.String("no-such-bucket-here")})
		s.fails(err, 404, "NoSuchBucket")
	}},
	{"list/bad-token", func(s *suite) {
		_, err := s.c.ListObjectsV2(s.ctx(), &s3.ListObjectsV2Input{Bucket: &s.bucket, ContinuationToken: aws.String("not a token!")})
		s.fails(err, 400, "InvalidArgument")
	}},
}
