// Command peers runs one of the AWS SDK's transfer clients once and prints one
// JSON line about it. It is driven by benchmarks/engine and lives in a module of
// its own, so that users of Penstock do not download its competitors.
//
//	peers -client manager -endpoint http://127.0.0.1:9000 -bucket b -key k
//
// Every client gets what helps it: the same part size and concurrency as ours, a
// connection pool that does not throw connections away, and no checksum work
// though ours does some. Retries are the SDK's own.
package main
