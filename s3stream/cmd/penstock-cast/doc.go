// Command penstock-cast reads S3 objects once and gives them to one node or to
// all nodes of a job.
//
//	penstock-cast get -o DIR s3://bucket/prefix/            one node: files below DIR
//	penstock-cast leader --workers 8 s3://bucket/prefix/    reads, and sends to the workers
//	penstock-cast worker --leader HOST -o DIR               receives, passes on, writes files
//
// The shared secret of a job comes from PENSTOCK_TOKEN or from the file that
// PENSTOCK_TOKEN_FILE names, never from the command line. Credentials for S3
// come from the places where the AWS tools look.
//
// The exit code is 0 after success, 1 after a failure, and 2 if the command
// line is wrong.
package main
