package s3

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/penstock/penstock/internal/budget"
	"github.com/penstock/penstock/internal/ranges"
)

const (
	// DefaultPartBytes is the part size of AWS's own clients and of the engine.
	DefaultPartBytes = 8 << 20
	// DefaultConcurrency fills 2.5 Gbit/s at the 85 MB/s that S3 gives a
	// connection; with 8 MiB parts it holds 32 MiB.
	DefaultConcurrency = 4

	// Limits of the service.
	minPart   = 5 << 20
	maxPart   = 5 << 30
	maxParts  = 10000
	maxObject = 5 << 40

	// abortTimeout bounds the clean-up after a failure. After a cancellation
	// the bound is abortCancelled, so that an interrupted program ends within a
	// second.
	abortTimeout   = 10 * time.Second
	abortCancelled = 900 * time.Millisecond
)

// partSize returns the size of part n (from 1). If the object's size is known,
// all parts are equal, as some services demand. Otherwise the size of parts
// doubles every 1,000 parts: 10,000 parts of 8 MiB and more hold 7.9 TiB, more
// than an object may have.
func partSize(n int, smallest, total int64) int64 {
	if total > 0 {
		const mib = 1 << 20
		even := (total + maxParts - 1) / maxParts
		return max(smallest, (even+mib-1)/mib*mib)
	}
	return min(smallest<<((n-1)/1000), maxPart)
}

// Upload writes an object of any size: in one request if the body fits into a
// part, else by parts, of which it sends several at once. It reads body to its
// end, from the calling goroutine. If it fails, it leaves nothing behind.
func (c *Client) Upload(ctx context.Context, bucket, key string, body io.Reader, o PutOptions) (PutResult, error) {
	if err := o.Validate(); err != nil {
		return PutResult{}, err
	}
	u := &upload{c: c, bucket: bucket, key: key, o: o, body: body, account: c.budget.Account()}
	if u.o.PartBytes == 0 {
		u.o.PartBytes = DefaultPartBytes
	}
	switch {
	case u.o.Concurrency == 0:
		u.o.Concurrency = DefaultConcurrency
	case u.o.Concurrency < 0:
		u.o.Concurrency = 1
	}
	return u.run(ctx)
}

// upload is one Upload.
type upload struct {
	c           *Client
	bucket, key string
	o           PutOptions
	body        io.Reader
	account     *budget.Account // empty at the start, so that the first part always gets its buffer

	id   string // of the multipart upload
	read int64
	sum  ranges.Checksum // of all bytes read

	mu    sync.Mutex // guards parts and err; leaf
	parts []types.CompletedPart
	err   error // the first failure of a part
}

func (u *upload) run(ctx context.Context) (PutResult, error) {
	first, err := u.next(ctx, 1)
	if err != nil {
		return PutResult{}, err
	}
	defer first.release()
	if first.last {
		return u.c.putBytes(ctx, opUpload, u.bucket, u.key, first.bytes(), u.o)
	}
	if err := u.create(ctx); err != nil {
		return PutResult{}, err
	}
	err = u.sendAll(ctx, first)
	var res PutResult
	if err == nil {
		res, err = u.complete(ctx)
	}
	if err != nil {
		return PutResult{}, u.abort(ctx, err)
	}
	return res, nil
}

// part is a piece of the body in a buffer of the budget.
type part struct {
	n    int
	buf  *budget.Buf // nil after release
	len  int
	last bool // the body ended here
}

func (p *part) bytes() []byte { return p.buf.Bytes()[:p.len] }

func (p *part) release() {
	if p.buf != nil {
		p.buf.Release()
		p.buf = nil
	}
}

// next reads part n. The last part may be empty if it is not the first.
func (u *upload) next(ctx context.Context, n int) (*part, error) {
	if n > maxParts {
		return nil, u.fail(fmt.Errorf("the body needs more than %d parts of %d bytes: raise the part size", maxParts, u.o.PartBytes))
	}
	size := partSize(n, u.o.PartBytes, u.o.Size)
	if left := u.o.Size - u.read; u.o.Size > 0 && left < size {
		size = left + 1 // one byte more shows whether the body ends there
	}
	buf, err := u.account.Get(ctx, int(size))
	if err != nil {
		return nil, u.fail(err)
	}
	p := &part{n: n, buf: buf}
	p.len, err = io.ReadFull(u.body, buf.Bytes())
	u.read += int64(p.len)
	p.last = errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
	switch {
	case err != nil && !p.last:
		err = fmt.Errorf("read the body: %w", err)
	case u.o.Size > 0 && (p.last && u.read != u.o.Size || u.read > u.o.Size):
		err = fmt.Errorf("the body does not have the %d bytes announced", u.o.Size)
	case u.read > maxObject:
		err = fmt.Errorf("the body is larger than the %d bytes that fit into an object", int64(maxObject))
	case ctx.Err() != nil:
		err = context.Cause(ctx)
	default:
		u.sum = u.o.Checksum.update(u.sum, p.bytes())
		return p, nil
	}
	p.release()
	return nil, u.fail(err)
}

// fail wraps an error that this side caused.
func (u *upload) fail(err error) error {
	return &Error{Op: opUpload, Bucket: u.bucket, Key: u.key, kind: ranges.Permanent, Err: err}
}

func (u *upload) create(ctx context.Context) error {
	c := u.c
	in := &awss3.CreateMultipartUploadInput{
		Bucket:               aws.String(u.bucket),
		Key:                  aws.String(u.key),
		ContentType:          text(u.o.ContentType),
		CacheControl:         text(u.o.CacheControl),
		StorageClass:         types.StorageClass(u.o.StorageClass),
		Metadata:             u.o.Metadata,
		ServerSideEncryption: types.ServerSideEncryption(c.opts.SSE),
		SSEKMSKeyId:          text(c.opts.SSEKMSKeyID),
		SSECustomerAlgorithm: c.sseC.algorithm,
		SSECustomerKey:       c.sseC.key,
		SSECustomerKeyMD5:    c.sseC.md5,
	}
	switch u.o.Checksum {
	case ChecksumCRC64NVME:
		in.ChecksumAlgorithm, in.ChecksumType = types.ChecksumAlgorithmCrc64nvme, types.ChecksumTypeFullObject
	case ChecksumCRC32C:
		in.ChecksumAlgorithm, in.ChecksumType = types.ChecksumAlgorithmCrc32c, types.ChecksumTypeFullObject
	case ChecksumOff:
	}
	var out *awss3.CreateMultipartUploadOutput
	err := c.call(ctx, opUpload, u.bucket, u.key, func(ctx context.Context, region func(*awss3.Options)) (err error) {
		out, err = c.sdk.CreateMultipartUpload(ctx, in, region)
		return err
	})
	if err != nil {
		return err
	}
	if u.id = aws.ToString(out.UploadId); u.id == "" {
		return u.fail(errors.New("the service started a multipart upload without an upload id"))
	}
	return nil
}

// sendAll sends all parts, and reads ahead as far as the budget and the
// concurrency allow. It returns when all its goroutines have ended.
func (u *upload) sendAll(ctx context.Context, p *part) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	slots := make(chan struct{}, u.o.Concurrency)
	var wg sync.WaitGroup
	for n := 1; ; {
		slots <- struct{}{} // a part that is being sent always ends, by failure or cancellation
		if u.failed() != nil {
			p.release()
			break
		}
		last := p.last
		if p.len > 0 {
			wg.Add(1)
			go func(p *part) {
				defer wg.Done()
				defer func() { <-slots }()
				defer p.release()
				if err := u.send(ctx, p); err != nil && u.setErr(err) {
					cancel() // the other parts are no longer needed
				}
			}(p)
		} else {
			p.release()
		}
		if last {
			break
		}
		n++
		var err error
		if p, err = u.next(ctx, n); err != nil {
			u.setErr(err) // before the parts being sent fail because of the cancellation
			cancel()
			break
		}
	}
	wg.Wait()
	return u.failed()
}

func (u *upload) failed() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.err
}

// setErr stores the first failure and reports whether err is the first.
func (u *upload) setErr(err error) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.err != nil {
		return false
	}
	u.err = err
	return true
}

// send uploads one part.
func (u *upload) send(ctx context.Context, p *part) error {
	c := u.c
	crc64, crc32c := sumHeaders(u.o.Checksum.of(p.bytes()))
	in := &awss3.UploadPartInput{
		Bucket:               aws.String(u.bucket),
		Key:                  aws.String(u.key),
		UploadId:             aws.String(u.id),
		PartNumber:           aws.Int32(int32(p.n)), //nolint:gosec // at most maxParts
		ContentLength:        aws.Int64(int64(p.len)),
		ChecksumCRC64NVME:    crc64,
		ChecksumCRC32C:       crc32c,
		SSECustomerAlgorithm: c.sseC.algorithm,
		SSECustomerKey:       c.sseC.key,
		SSECustomerKeyMD5:    c.sseC.md5,
	}
	var out *awss3.UploadPartOutput
	err := c.call(ctx, opUpload, u.bucket, u.key, func(ctx context.Context, region func(*awss3.Options)) (err error) {
		b := newPayload(p.bytes())
		defer b.end()
		in.Body = b
		out, err = c.sdk.UploadPart(ctx, in, region, c.payloadOption())
		return err
	})
	if err != nil {
		return err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	for len(u.parts) < p.n {
		u.parts = append(u.parts, types.CompletedPart{})
	}
	u.parts[p.n-1] = types.CompletedPart{ETag: out.ETag, PartNumber: in.PartNumber, ChecksumCRC64NVME: crc64, ChecksumCRC32C: crc32c}
	return nil
}

// complete creates the object from its parts.
func (u *upload) complete(ctx context.Context) (PutResult, error) {
	c := u.c
	in := &awss3.CompleteMultipartUploadInput{
		Bucket:               aws.String(u.bucket),
		Key:                  aws.String(u.key),
		UploadId:             aws.String(u.id),
		MultipartUpload:      &types.CompletedMultipartUpload{Parts: u.parts},
		MpuObjectSize:        aws.Int64(u.read),
		IfMatch:              text(u.o.IfMatch),
		SSECustomerAlgorithm: c.sseC.algorithm,
		SSECustomerKey:       c.sseC.key,
		SSECustomerKeyMD5:    c.sseC.md5,
	}
	if u.o.Checksum != ChecksumOff {
		in.ChecksumType = types.ChecksumTypeFullObject
		in.ChecksumCRC64NVME, in.ChecksumCRC32C = sumHeaders(u.sum)
	}
	if u.o.IfNoneMatch {
		in.IfNoneMatch = aws.String("*")
	}
	var out *awss3.CompleteMultipartUploadOutput
	err := c.writeOnce(ctx, opUpload, u.bucket, u.key, u.o, u.read, u.sum, func(ctx context.Context, region func(*awss3.Options)) (err error) {
		out, err = c.sdk.CompleteMultipartUpload(ctx, in, region)
		return err
	})
	if err != nil {
		return PutResult{}, err
	}
	res := PutResult{Size: u.read, Parts: len(u.parts), Checksum: u.sum}
	if out != nil {
		res.ETag, res.VersionID = aws.ToString(out.ETag), aws.ToString(out.VersionId)
		return res, nil
	}
	info, err := c.Head(ctx, u.bucket, u.key)
	res.ETag, res.VersionID = info.ETag, info.VersionID
	return res, err
}

// abort removes the uploaded parts, even after a cancellation. It returns cause,
// and adds its own error if the removal fails.
func (u *upload) abort(ctx context.Context, cause error) error {
	timeout := abortTimeout
	if ctx.Err() != nil {
		timeout = u.c.abortWait
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
	defer cancel()
	in := &awss3.AbortMultipartUploadInput{Bucket: aws.String(u.bucket), Key: aws.String(u.key), UploadId: aws.String(u.id)}
	err := u.c.call(ctx, opUpload, u.bucket, u.key, func(ctx context.Context, region func(*awss3.Options)) error {
		_, err := u.c.sdk.AbortMultipartUpload(ctx, in, region)
		return err
	})
	if err == nil || errors.Is(err, ErrNotFound) {
		return cause
	}
	var e *Error
	if errors.As(err, &e) {
		err = errors.New(e.reason())
	}
	return fmt.Errorf("%w; its parts could not be removed (upload %s: %w), delete them or let a lifecycle rule do it", cause, u.id, err)
}
