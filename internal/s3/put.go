package s3

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net/url"
	"strings"
	"sync"

	"github.com/aws/aws-sdk-go-v2/aws"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go/encoding/httpbinding"
	"github.com/minio/crc64nvme"

	"github.com/penstock/penstock/internal/crc"
	"github.com/penstock/penstock/internal/ranges"
)

const (
	// MaxPut bounds the body of Put, which is held in memory. Upload takes
	// larger ones.
	MaxPut = 64 << 20
	// maxCopy bounds the object that one CopyObject request may copy.
	maxCopy = 5 << 30
)

// UploadChecksum is the algorithm of the checksum that is sent with a body, so
// that the service refuses damaged bodies and stores the checksum with the
// object.
type UploadChecksum uint8

// The checksums of uploads.
const (
	ChecksumCRC64NVME UploadChecksum = iota // the default, as in AWS's own tools
	ChecksumCRC32C                          // for services that do not know CRC64NVME
	ChecksumOff                             // for services that reject checksum headers
)

// PutOptions describe a new object. The zero value is useful.
type PutOptions struct {
	ContentType  string
	CacheControl string
	StorageClass string            // the service's default if empty
	Metadata     map[string]string // user metadata
	Checksum     UploadChecksum

	// IfNoneMatch writes only if the object does not exist.
	IfNoneMatch bool
	// IfMatch writes only if the object has this ETag.
	IfMatch string

	// Size is the length of the body, or zero if it is not known. Upload
	// derives the size of parts from it, and fails if it is wrong.
	Size int64
	// PartBytes is the smallest size of a part of Upload; zero is
	// DefaultPartBytes.
	PartBytes int64
	// Concurrency is the number of parts that Upload sends at once; zero means
	// DefaultConcurrency, and a negative number one.
	Concurrency int
}

// Validate reports the first mistake in o.
func (o PutOptions) Validate() error {
	switch {
	case o.IfNoneMatch && o.IfMatch != "":
		return errors.New("s3: IfNoneMatch and IfMatch exclude each other: give one")
	case o.Size < 0:
		return fmt.Errorf("s3: size %d is negative: use 0 for unknown", o.Size)
	case o.Size > maxObject:
		return fmt.Errorf("s3: size %d: at most %d bytes fit into an object", o.Size, int64(maxObject))
	case o.PartBytes != 0 && (o.PartBytes < minPart || o.PartBytes > maxPart):
		return fmt.Errorf("s3: parts of %d bytes: use %d to %d, or 0 for the default", o.PartBytes, int64(minPart), int64(maxPart))
	case o.Checksum > ChecksumOff:
		return fmt.Errorf("s3: checksum %d is unknown", o.Checksum)
	}
	return nil
}

// PutResult describes a written object.
type PutResult struct {
	ETag      string
	VersionID string
	Size      int64
	Parts     int // number of requests that carried the body; 1 for a simple put
	Checksum  ranges.Checksum
}

// Put writes a small object, at most MaxPut bytes, in one request.
func (c *Client) Put(ctx context.Context, bucket, key string, body io.Reader, o PutOptions) (PutResult, error) {
	if err := o.Validate(); err != nil {
		return PutResult{}, err
	}
	data, err := io.ReadAll(io.LimitReader(body, MaxPut+1))
	switch {
	case err != nil:
		err = fmt.Errorf("read the body: %w", err)
	case len(data) > MaxPut:
		err = fmt.Errorf("the body is larger than %d MiB: use Upload", MaxPut>>20)
	case o.Size != 0 && int64(len(data)) != o.Size:
		err = fmt.Errorf("the body has %d bytes, not the %d announced", len(data), o.Size)
	}
	if err != nil {
		return PutResult{}, &Error{Op: opPut, Bucket: bucket, Key: key, kind: ranges.Permanent, Err: err}
	}
	// The bytes are reserved without waiting, because they are in memory already,
	// and MaxPut bounds them.
	c.budget.Force(int64(len(data)))
	defer c.budget.Release(int64(len(data)))
	return c.putBytes(ctx, opPut, bucket, key, data, o)
}

// putBytes writes an object in one request.
func (c *Client) putBytes(ctx context.Context, op, bucket, key string, data []byte, o PutOptions) (PutResult, error) {
	sum := o.Checksum.of(data)
	in := &awss3.PutObjectInput{
		Bucket:               aws.String(bucket),
		Key:                  aws.String(key),
		ContentLength:        aws.Int64(int64(len(data))),
		ContentType:          text(o.ContentType),
		CacheControl:         text(o.CacheControl),
		StorageClass:         types.StorageClass(o.StorageClass),
		Metadata:             o.Metadata,
		IfMatch:              text(o.IfMatch),
		ServerSideEncryption: types.ServerSideEncryption(c.opts.SSE),
		SSEKMSKeyId:          text(c.opts.SSEKMSKeyID),
		SSECustomerAlgorithm: c.sseC.algorithm,
		SSECustomerKey:       c.sseC.key,
		SSECustomerKeyMD5:    c.sseC.md5,
	}
	in.ChecksumCRC64NVME, in.ChecksumCRC32C = sumHeaders(sum)
	if o.IfNoneMatch {
		in.IfNoneMatch = aws.String("*")
	}
	var out *awss3.PutObjectOutput
	err := c.writeOnce(ctx, op, bucket, key, o, int64(len(data)), sum, func(ctx context.Context, region func(*awss3.Options)) (err error) {
		b := newPayload(data)
		defer b.end()
		in.Body = b
		out, err = c.sdk.PutObject(ctx, in, region, c.payloadOption())
		return err
	})
	if err != nil {
		return PutResult{}, err
	}
	res := PutResult{Size: int64(len(data)), Parts: 1, Checksum: sum}
	if out != nil {
		res.ETag, res.VersionID = aws.ToString(out.ETag), aws.ToString(out.VersionId)
		return res, nil
	}
	info, err := c.Head(ctx, bucket, key) // an earlier attempt had succeeded
	res.ETag, res.VersionID = info.ETag, info.VersionID
	return res, err
}

// writeOnce is like call, for a request that creates an object. If the answer to
// a conditional write is lost, the repetition fails because it finds the object
// that the first request created. The same holds for the completion of an upload,
// whose repetition finds no upload. writeOnce then compares the object with the
// body, and returns nil if they are the same, although f failed.
func (c *Client) writeOnce(ctx context.Context, op, bucket, key string, o PutOptions, size int64, sum ranges.Checksum, f func(context.Context, func(*awss3.Options)) error) error {
	lost := false
	err := c.call(ctx, op, bucket, key, func(ctx context.Context, region func(*awss3.Options)) error {
		err := f(ctx, region)
		if seen, _ := ctx.Value(witnessKey{}).(*witness); err != nil && seen != nil {
			lost = lost || seen.failure == nil || seen.failure.Status == 0 || seen.failure.Status >= 500
		}
		return err
	})
	retried := errors.Is(err, ErrPrecondition) && (o.IfNoneMatch || o.IfMatch != "") || errors.Is(err, ErrNotFound) && op == opUpload
	if !lost || !retried || sum.Algorithm == ranges.NoChecksum {
		return err
	}
	info, herr := c.Head(ctx, bucket, key)
	if herr == nil && info.Size == size && info.Checksum == sum {
		return nil
	}
	return err
}

// payloadOption chooses how the body of a request is signed.
func (c *Client) payloadOption() func(*awss3.Options) {
	if c.endpoint != nil && c.endpoint.Scheme == "http" {
		return func(*awss3.Options) {} // only the signature protects the body
	}
	return unsignedPayload
}

// Copy copies an object of at most 5 GiB within the service.
func (c *Client) Copy(ctx context.Context, fromBucket, fromKey, bucket, key string, o PutOptions) (PutResult, error) {
	if err := o.Validate(); err != nil {
		return PutResult{}, err
	}
	in := &awss3.CopyObjectInput{
		Bucket:                         aws.String(bucket),
		Key:                            aws.String(key),
		CopySource:                     aws.String(copySource(fromBucket, fromKey)),
		StorageClass:                   types.StorageClass(o.StorageClass),
		IfMatch:                        text(o.IfMatch),
		ServerSideEncryption:           types.ServerSideEncryption(c.opts.SSE),
		SSEKMSKeyId:                    text(c.opts.SSEKMSKeyID),
		SSECustomerAlgorithm:           c.sseC.algorithm,
		SSECustomerKey:                 c.sseC.key,
		SSECustomerKeyMD5:              c.sseC.md5,
		CopySourceSSECustomerAlgorithm: c.sseC.algorithm,
		CopySourceSSECustomerKey:       c.sseC.key,
		CopySourceSSECustomerKeyMD5:    c.sseC.md5,
	}
	if o.ContentType != "" || o.CacheControl != "" || o.Metadata != nil {
		in.MetadataDirective = types.MetadataDirectiveReplace
		in.ContentType, in.CacheControl, in.Metadata = text(o.ContentType), text(o.CacheControl), o.Metadata
	}
	if o.IfNoneMatch {
		in.IfNoneMatch = aws.String("*")
	}
	if owner := c.opts.ExpectedBucketOwner; owner != "" {
		in.ExpectedSourceBucketOwner = aws.String(owner)
	}
	var out *awss3.CopyObjectOutput
	err := c.call(ctx, opCopy, bucket, key, func(ctx context.Context, region func(*awss3.Options)) (err error) {
		out, err = c.sdk.CopyObject(ctx, in, region)
		return err
	})
	var e *Error
	if errors.As(err, &e) && e.Code == "InvalidRequest" && strings.Contains(strings.ToLower(e.Message), "copy source is larger") {
		e.Message = fmt.Sprintf("the source is larger than the %d GiB that can be copied: read and upload it", maxCopy>>30)
	}
	if err != nil {
		return PutResult{}, err
	}
	res := PutResult{Parts: 1, VersionID: aws.ToString(out.VersionId)}
	if r := out.CopyObjectResult; r != nil {
		res.ETag = aws.ToString(r.ETag)
		res.Checksum = fullChecksum(string(r.ChecksumType), aws.ToString(r.ChecksumCRC64NVME), aws.ToString(r.ChecksumCRC32C))
	}
	return res, nil
}

// copySource returns the source of a copy in the service's form, which names an
// object of an access point by the ARN.
func copySource(bucket, key string) string {
	if strings.HasPrefix(bucket, "arn:") {
		return url.PathEscape(bucket + "/object/" + key)
	}
	return bucket + "/" + httpbinding.EscapePath(key, false)
}

// Delete deletes an object. As in S3, deleting a missing object succeeds.
func (c *Client) Delete(ctx context.Context, bucket, key string) error {
	in := &awss3.DeleteObjectInput{Bucket: aws.String(bucket), Key: aws.String(key)}
	return c.call(ctx, opDelete, bucket, key, func(ctx context.Context, region func(*awss3.Options)) error {
		_, err := c.sdk.DeleteObject(ctx, in, region)
		return err
	})
}

// text returns a string as a parameter of the SDK, or nil if it is empty.
func text(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// of returns the sum of a body.
func (u UploadChecksum) of(p []byte) ranges.Checksum { return u.update(ranges.Checksum{}, p) }

// update adds p to a running sum; the zero Checksum starts one.
func (u UploadChecksum) update(s ranges.Checksum, p []byte) ranges.Checksum {
	switch u {
	case ChecksumCRC64NVME:
		return ranges.Checksum{Algorithm: ranges.CRC64NVME, Value: crc64nvme.Update(s.Value, p)}
	case ChecksumCRC32C:
		return ranges.Checksum{Algorithm: ranges.CRC32C, Value: uint64(crc32.Update(low32(s), crc.CastagnoliTable, p))}
	case ChecksumOff:
	}
	return ranges.Checksum{}
}

// low32 returns the value of a CRC32C.
func low32(s ranges.Checksum) uint32 {
	return uint32(s.Value) //nolint:gosec // a CRC32C has 32 bits
}

// sumHeaders returns the values of the CRC64NVME and CRC32C headers, of which
// at most one is not nil.
func sumHeaders(s ranges.Checksum) (crc64, crc32c *string) {
	switch s.Algorithm {
	case ranges.CRC64NVME:
		return aws.String(base64.StdEncoding.EncodeToString(binary.BigEndian.AppendUint64(nil, s.Value))), nil
	case ranges.CRC32C:
		return nil, aws.String(base64.StdEncoding.EncodeToString(binary.BigEndian.AppendUint32(nil, low32(s))))
	case ranges.NoChecksum:
	}
	return nil, nil
}

// payload is a request body in a buffer that is used again afterwards. If the
// answer comes early, net/http returns while it still reads the body. After end
// it reads no bytes, so that it cannot read the buffer's next content.
type payload struct {
	mu   sync.Mutex // guards all below; leaf
	data []byte     // nil after end
	off  int64
}

func newPayload(data []byte) *payload { return &payload{data: data} }

var errEnded = errors.New("request is over")

func (b *payload) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.data == nil && b.off < 0 {
		return 0, errEnded
	}
	if b.off >= int64(len(b.data)) {
		return 0, io.EOF
	}
	n := copy(p, b.data[b.off:])
	b.off += int64(n)
	return n, nil
}

// Seek lets the SDK measure and sign the body.
func (b *payload) Seek(off int64, whence int) (int64, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch whence {
	case io.SeekCurrent:
		off += b.off
	case io.SeekEnd:
		off += int64(len(b.data))
	}
	if off < 0 || b.off < 0 {
		return 0, errors.New("seek outside the body")
	}
	b.off = off
	return off, nil
}

func (b *payload) end() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.data, b.off = nil, -1
}
