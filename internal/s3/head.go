package s3

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/penstock/penstock/internal/ranges"
)

// ObjectInfo describes an object.
type ObjectInfo struct {
	Key          string
	Size         int64
	ETag         string // with its quotes, as the service sent it
	VersionID    string // "" in buckets without versions
	LastModified time.Time
	StorageClass string // "STANDARD" if the service does not name one
	ContentType  string
	Metadata     map[string]string // user metadata, keys in lower case
	Checksum     ranges.Checksum   // of the whole object; zero if the service has none
	PartsCount   int               // parts of a multipart object, else 0
	Archived     bool              // must be restored before it can be read
	Restore      string            // state of a restore, in the service's words
}

// Head describes an object.
func (c *Client) Head(ctx context.Context, bucket, key string) (ObjectInfo, error) {
	return c.HeadVersion(ctx, bucket, key, "")
}

// HeadVersion describes one version of an object; an empty id is the current one.
func (c *Client) HeadVersion(ctx context.Context, bucket, key, versionID string) (ObjectInfo, error) {
	in := &awss3.HeadObjectInput{
		Bucket:               aws.String(bucket),
		Key:                  aws.String(key),
		ChecksumMode:         types.ChecksumModeEnabled,
		SSECustomerAlgorithm: c.sseC.algorithm,
		SSECustomerKey:       c.sseC.key,
		SSECustomerKeyMD5:    c.sseC.md5,
	}
	if versionID != "" {
		in.VersionId = aws.String(versionID)
	}
	var out *awss3.HeadObjectOutput
	err := c.call(ctx, opHead, bucket, key, func(ctx context.Context, region func(*awss3.Options)) (err error) {
		if out, err = c.sdk.HeadObject(ctx, in, region); err == nil && out.ContentLength == nil && !ranges.SameETag(aws.ToString(out.ETag), emptyETag) {
			err = errNoSize
		}
		return err
	})
	if err != nil {
		return ObjectInfo{}, err
	}
	info := ObjectInfo{
		Key:          key,
		Size:         aws.ToInt64(out.ContentLength),
		ETag:         aws.ToString(out.ETag),
		VersionID:    aws.ToString(out.VersionId),
		LastModified: aws.ToTime(out.LastModified),
		StorageClass: storageClass(string(out.StorageClass)),
		ContentType:  aws.ToString(out.ContentType),
		Metadata:     out.Metadata,
		Checksum:     fullChecksum(string(out.ChecksumType), aws.ToString(out.ChecksumCRC64NVME), aws.ToString(out.ChecksumCRC32C)),
		Restore:      aws.ToString(out.Restore),
	}
	info.PartsCount = partsOf(info.ETag)
	info.Archived = archived(info.StorageClass, string(out.ArchiveStatus), info.Restore)
	return info, nil
}

// errNoSize reports a HEAD without a size. If the size counted as 0, every object
// would look empty.
var errNoSize = errors.New("the answer has no Content-Length: a proxy or gateway on the way removes it")

// emptyETag is the MD5 of no bytes. An object with this ETag is empty, and some
// servers omit the length for it.
const emptyETag = "d41d8cd98f00b204e9800998ecf8427e"

func storageClass(s string) string {
	if s == "" {
		return "STANDARD" // the only class that S3 does not name
	}
	return s
}

// partsOf reads the number of parts from the ETag of a multipart object
// ("...-12"). A request for the number would return the size of the first part
// instead of the object's.
func partsOf(etag string) int {
	_, digits, ok := strings.Cut(strings.Trim(etag, `"`), "-")
	if !ok {
		return 0
	}
	n, err := strconv.ParseUint(digits, 10, 16)
	if err != nil {
		return 0
	}
	return int(n)
}

// archived reports whether a GET would fail with InvalidObjectState.
func archived(class, status, restore string) bool {
	if status == "" && class != "GLACIER" && class != "DEEP_ARCHIVE" {
		return false
	}
	return !strings.Contains(restore, `ongoing-request="false"`)
}
