// Package s3 is a signed client for S3 and what speaks its protocol: object
// bodies by range for the engine, and heads, listings and uploads for everyone.
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
// point). A source is one object, asked for by range. A target is what the
// SDK's endpoint rules make of bucket and region: the base of the URL, the
// host, the name and region to sign for. An entry is a line of a listing: an
// object, or a common prefix.
//
// # Requests
//
// Bodies take a short way: the target is resolved once per bucket, and each GET
// is signed by the SDK's signer and sent through internal/httprange, which
// checks status, range, length and validator. Where another kind of signature
// is needed (multi-region access points, directory buckets) GETs go through the
// SDK instead, and through the same checks. Everything else uses the SDK.
//
// # Retries
//
// The SDK's retries are off. A source never repeats a request but once after
// learning the bucket's region and once after renewing credentials: the engine
// retries. The other methods repeat what may be repeated a few times, with
// pauses, in one place and under one policy ([Options.Retry]).
//
// # Credentials
//
// Keys are renewed ahead of their end, in the background and spread by chance;
// while that fails, valid ones go on being used. The shared files are read again
// when they change and when the service refuses the keys. Only a client that
// never had keys fails for good for the lack of them.
//
// # Concurrency
//
// A [Client] and its sources are safe for concurrent use. Goroutines run inside
// Upload, which waits for them, and to renew credentials, which Close ends.
//
// # Failure model
//
// Methods return [*Error], whose text is one line that says what to do, and
// which matches [ErrNotFound], [ErrNoBucket], [ErrDenied], [ErrPrecondition],
// [ErrArchived], [ErrNoCredentials] and [ErrListStuck]. A source returns a
// *ranges.Fault around it. An upload that fails leaves nothing behind: it is
// aborted, also when its context was cancelled.
//
// # Non-goals
//
// ACLs, policies, tagging, versions other than reading one, downloads (the
// engine's), client-side encryption.
package s3
