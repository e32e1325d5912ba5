// Package s3conformance checks that an S3 endpoint behaves as Penstock's clients assume, through the real AWS SDK: ranges,
// conditions, versions, parts, checksums, multipart uploads and listings with odd keys.
//
//	s3conformance.Run(t, s3conformance.Config{
//		Endpoint: "http://127.0.0.1:7070", AccessKey: "...", SecretKey: "...",
//		Skip: map[string]string{"put/if-none-match": "server answers 500 here, see its issue 12"},
//	})
//
// Every check is a subtest with a name of the form group/check; Skip turns one off and must say why. A skipped check is
// not run at all, so when the server learns better the entry has to be taken out by hand.
//
// Run makes its own buckets and does not use others. Checks run one after the other and share nothing but the endpoint.
// It is a test helper: it does not measure anything and does not retry.
package s3conformance
