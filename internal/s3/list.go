package s3

import (
	"context"
	"fmt"
	"iter"
	"net/url"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/penstock/penstock/internal/ranges"
)

// pageKeys is the size of S3's largest page.
const pageKeys = 1000

// ListOptions select the entries of a listing.
type ListOptions struct {
	// Prefix is the beginning of all keys in the listing.
	Prefix string
	// Delimiter folds all keys with the same prefix up to the delimiter into
	// one entry. "/" shows a bucket as folders.
	Delimiter string
	// StartAfter is the key after which the listing begins.
	StartAfter string
	// MaxKeys is the size of a page; zero means 1,000, the largest one.
	MaxKeys int
}

// Validate reports the first mistake in o.
func (o ListOptions) Validate() error {
	if o.MaxKeys < 0 || o.MaxKeys > pageKeys {
		return fmt.Errorf("s3: list with pages of %d keys: use 1 to %d, or 0", o.MaxKeys, pageKeys)
	}
	return nil
}

// Entry is a line of a listing: an object, or a common prefix.
type Entry struct {
	Key    string // of an object, "" for a prefix
	Prefix string // of keys that the delimiter folded, "" for an object

	Size         int64
	ETag         string
	LastModified time.Time
	StorageClass string
	Archived     bool // by its class; a listing does not show a restored copy
}

// name returns the text by which entries are sorted.
func (e Entry) name() string { return e.Key + e.Prefix }

// List lists a bucket in the order of keys (in directory buckets: in the
// service's order). It holds one page at a time. An error ends the sequence.
func (c *Client) List(ctx context.Context, bucket string, o ListOptions) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		if err := o.Validate(); err != nil {
			yield(Entry{}, err)
			return
		}
		in := listInput(bucket, o)
		var progress tokens
		for {
			var out *awss3.ListObjectsV2Output
			var page []Entry
			err := c.call(ctx, opList, bucket, o.Prefix, func(ctx context.Context, region func(*awss3.Options)) (err error) {
				if out, err = c.sdk.ListObjectsV2(ctx, in, region); err != nil {
					return err
				}
				page, err = entries(out)
				return err
			})
			if err != nil {
				yield(Entry{}, err)
				return
			}
			for _, e := range page {
				if !yield(e, nil) {
					return
				}
			}
			if !aws.ToBool(out.IsTruncated) {
				return
			}
			if !progress.advance(aws.ToString(out.NextContinuationToken)) {
				yield(Entry{}, stuck(opList, bucket, o.Prefix))
				return
			}
			in.ContinuationToken = out.NextContinuationToken
			in.StartAfter = nil // S3 ignores it if there is a token; some clones restart the listing
		}
	}
}

func listInput(bucket string, o ListOptions) *awss3.ListObjectsV2Input {
	in := &awss3.ListObjectsV2Input{
		Bucket: aws.String(bucket),
		// Keys may contain characters that XML cannot.
		EncodingType: types.EncodingTypeUrl,
		MaxKeys:      aws.Int32(pageKeys),
	}
	if o.MaxKeys > 0 {
		in.MaxKeys = aws.Int32(int32(o.MaxKeys)) //nolint:gosec // at most 1,000, by Validate
	}
	for _, f := range []struct {
		to    **string
		value string
	}{{&in.Prefix, o.Prefix}, {&in.Delimiter, o.Delimiter}, {&in.StartAfter, o.StartAfter}} {
		if f.value != "" {
			*f.to = aws.String(f.value)
		}
	}
	return in
}

// entries merges the objects and the common prefixes of a page, which come in
// two sorted lists.
func entries(out *awss3.ListObjectsV2Output) ([]Entry, error) {
	decode := func(s *string) (string, error) { return aws.ToString(s), nil }
	if out.EncodingType == types.EncodingTypeUrl { // a server may ignore the request for it
		decode = func(s *string) (string, error) {
			k, err := url.QueryUnescape(aws.ToString(s))
			if err != nil {
				return "", fmt.Errorf("listing has a key that is not URL-encoded: %w", err)
			}
			return k, nil
		}
	}
	page := make([]Entry, 0, len(out.Contents)+len(out.CommonPrefixes))
	prefixes := out.CommonPrefixes
	nextPrefix := func() (Entry, error) {
		p, err := decode(prefixes[0].Prefix)
		return Entry{Prefix: p}, err
	}
	for _, o := range out.Contents {
		e := Entry{
			Size:         aws.ToInt64(o.Size),
			ETag:         aws.ToString(o.ETag),
			LastModified: aws.ToTime(o.LastModified),
			StorageClass: storageClass(string(o.StorageClass)),
		}
		e.Archived = archived(e.StorageClass, "", "")
		var err error
		if e.Key, err = decode(o.Key); err != nil {
			return nil, err
		}
		if e.Key == "" {
			continue // no object has an empty key
		}
		for len(prefixes) > 0 {
			p, err := nextPrefix()
			if err != nil {
				return nil, err
			}
			if p.name() >= e.name() {
				break
			}
			page, prefixes = append(page, p), prefixes[1:]
		}
		page = append(page, e)
	}
	for ; len(prefixes) > 0; prefixes = prefixes[1:] {
		p, err := nextPrefix()
		if err != nil {
			return nil, err
		}
		page = append(page, p)
	}
	return page, nil
}

// tokens detects, in constant space, that a server repeats its continuation
// tokens. It compares each token with a mark that moves at powers of two
// (Brent's cycle detection), so it finds a cycle within twice the cycle's
// length.
type tokens struct {
	mark  string
	steps int // since mark was set
	limit int // when to move the mark
}

// advance takes the next token and reports whether it is a new one.
func (t *tokens) advance(token string) bool {
	if token == "" || token == t.mark {
		return false
	}
	if t.steps++; t.steps >= t.limit {
		t.mark, t.steps, t.limit = token, 0, 2*t.limit+1
	}
	return true
}

func stuck(op, bucket, prefix string) error {
	return &Error{
		Op: op, Bucket: bucket, Key: prefix, kind: ranges.Permanent,
		Err: fmt.Errorf("%w: the server repeats or omits a continuation token, so its listing can't be trusted", ErrListStuck),
	}
}
