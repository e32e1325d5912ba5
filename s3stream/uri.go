package s3stream

import (
	"fmt"
	"strings"
)

// target is a parsed URI.
type target struct {
	bucket string
	key    string
	prefix bool // all objects whose key begins with key
}

// parseURI reads s3://bucket/key, s3://bucket/prefix/ and s3://bucket. Keys are
// taken as they are: nothing is unescaped, so any key can be named.
func parseURI(s string) (target, error) {
	rest, ok := strings.CutPrefix(s, "s3://")
	if !ok {
		return target{}, fmt.Errorf("%q is not an S3 URI: want s3://bucket/key", s)
	}
	bucket, key, _ := strings.Cut(rest, "/")
	// An access point's ARN has a slash and colons of its own.
	if strings.HasPrefix(bucket, "arn:") {
		name, after, _ := strings.Cut(key, "/")
		bucket, key = bucket+"/"+name, after
	}
	if bucket == "" {
		return target{}, fmt.Errorf("%q has no bucket: want s3://bucket/key", s)
	}
	if len(key) > maxKey {
		return target{}, fmt.Errorf("key of %d bytes is longer than the %d that S3 allows", len(key), maxKey)
	}
	return target{bucket, key, key == "" || strings.HasSuffix(key, "/")}, nil
}
