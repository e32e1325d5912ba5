// Package testorigin is an object store and an image registry in one process,
// for tests, demos and benchmarks. It serves real files without copying them,
// over real sockets, and injects exactly the faults of a script.
//
//	o, err := testorigin.Start(testorigin.Options{})
//	defer o.Close()
//	o.PutFile("weights", "model.bin", path)        // an S3 object at o.URL(), signed by AccessKey and SecretKey
//	o.SetFaults(testorigin.Fault{Op: "GetObject", Probability: 0.1, Action: testorigin.ActStatus, Status: 503})
//	... read it with the code under test ...
//	n := o.TotalBytes("weights/")                  // bytes that the reads took
//
// # Vocabulary
//
// A bucket holds objects, a repository holds manifests and blobs. A content is
// the bytes of one version of an object or of a blob. It never changes, so a
// swap does not affect running GETs. An operation (GetObject, GetBlob, ...) and
// a counter key ("bucket/key", "repo@digest", "repo:tag") identify a request;
// fault rules match both, and there is a counter for each pair. A fault is one
// rule of a script; a firing is one request on which its conditions hold.
//
// # Protocols
//
// S3 in path style (and virtual-host style below .localhost): objects with
// ranges, conditions, versions, parts and checksums; multipart uploads;
// aws-chunked bodies; the three listings; Signature Version 4 in headers,
// queries and chunks. The OCI distribution API under /v2/, with bearer tokens
// or basic authorization, referrers, and redirects of blobs to presigned URLs
// on a second host that expire. The conformance suites s3conformance and
// ociconformance run real clients against it and against other servers, so that
// the origin keeps behaving like them.
//
// # Faults
//
// Whether a rule fires on the k-th request of a key depends only on the seed, the
// rule's place in the script, the operation, the key and k. So a run can be
// replayed although the order of goroutines changes. The text form of scripts
// (ParseFaults, Fault.String) is meant for flags of commands and benchmarks.
//
// # Quirks
//
// An origin behaves like S3 unless it has Quirks. Quirks imitate the
// differences of other servers, gateways and proxies, such as ETags without
// quotes, unsorted listings, redirects, or a wrong clock. The text form of
// quirks (ParseQuirks) is meant for flags.
//
// # Concurrency
//
// All methods of Origin are safe for concurrent use. Close ends all requests,
// stalled ones too, and returns when their goroutines have ended. A fault that
// stalls an upload without end ends with Close, because net/http does not watch
// the connection while a body is being read.
//
// # Failure model
//
// If the file of an object that was put by reference is replaced or resized, the
// origin answers 500 rather than with mixed bytes. Bytes are counted when the
// socket takes them. If the kernel then drops bytes because of a reset, they are
// counted although the client did not receive them.
//
// # Non-goals
//
// TLS, HTTP/2, ACLs and policies (except Quirks.Rights), persistence: all
// metadata is in memory and ends with the process. The origin is a test tool
// that listens on loopback, and its default credentials are public.
package testorigin
