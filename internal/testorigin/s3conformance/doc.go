// Package s3conformance checks that an S3 endpoint behaves as Penstock's
// clients assume, through the real AWS SDK: ranges, conditions, versions,
// parts, checksums, multipart uploads and listings with odd keys.
//
//	s3conformance.Run(t, s3conformance.Config{
//		Endpoint: "http://127.0.0.1:7070", AccessKey: "...", SecretKey: "...",
//		Skip: map[string]string{"put/if-none-match": "server answers 500 here, see its issue 12"},
//	})
//
// Every check is a subtest with a name of the form group/check; Skip turns one
// off and must give a reason. A skipped check does not run, so the entry must
// be removed by hand when the server is corrected.
//
// Run makes its own buckets and does not use others. Checks run one after the
// other and share only the endpoint. Run neither measures nor retries.
package s3conformance
