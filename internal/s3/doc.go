// Package s3 is a client for S3 and for stores that speak its protocol. The range
// engine reads object bodies through it. Other callers use it for metadata,
// listings and uploads.
//
//	c, err := s3.New(ctx, s3.Options{})      // credentials and endpoint from the environment
//	defer c.Close()
//	info, err := c.Head(ctx, "bucket", "weights/a.safetensors")
//	obj := engine.Object(c.Source("bucket", info.Key, s3.SourceOptions{}), c.Spec("bucket", info.Key, info))
//	n, err := obj.Fetch(ctx, buf, 0)
//
// # Vocabulary
//
// A bucket is a name or an access-point ARN (also of a multi-region access
// point). A source is one object that is read by range. A target is the result
// of the SDK's endpoint rules for a bucket and a region: the base of the URL,
// the host, and the name and region to sign for. An entry is a line of a
// listing: an object, or a common prefix.
//
// # Requests
//
// GETs of bodies bypass most of the SDK: the target is resolved once per
// bucket, and each GET is signed by the SDK's signer and sent through
// internal/httprange, which checks status, range, length and validator. Targets
// that need another kind of signature (multi-region access points, directory
// buckets) use the SDK's GetObject and pass the same checks. All other
// operations use the SDK.
//
// # Retries
//
// Each operation has one retry layer, and the SDK's retries are off. The engine
// repeats the ranges of a source. The source itself repeats a request only after
// an answer has corrected something, such as the bucket's region, and only once
// for each such correction. The other methods repeat their requests in one loop,
// under the policy of [Options.Retry].
//
// # Credentials
//
// Keys are renewed in the background before they expire, at random times, so that
// clients do not renew together. While a renewal fails, requests use the old keys
// as long as they are valid. The shared files are read again when they change and
// when the service refuses the keys. Missing keys are a permanent error only
// for a client that never had any.
//
// # Concurrency
//
// A [Client] and its sources are safe for concurrent use. Goroutines run inside
// Upload, which waits for them, and to renew credentials, which Close ends.
//
// # Failure model
//
// Methods return [*Error], whose text is one line that says what to do. With
// errors.Is it matches [ErrNotFound], [ErrNoBucket], [ErrDenied],
// [ErrPrecondition], [ErrArchived], [ErrNoCredentials] and [ErrListStuck]. A
// source returns it inside a *ranges.Fault. A failed upload is aborted, even
// after its context was cancelled, so that no parts stay in the bucket. If the
// abort fails as well, the error names the upload.
//
// # Non-goals
//
// ACLs, policies, tagging, versions other than reading one, downloads (the
// engine's), client-side encryption.
package s3
