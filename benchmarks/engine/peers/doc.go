// Command peers runs one of the AWS SDK's transfer clients once and prints one
// JSON line about it. It is driven by benchmarks/engine and lives in a module of
// its own, so that users of Penstock do not download its competitors.
//
//	peers -client manager -endpoint http://127.0.0.1:9000 -bucket b -key k
//
// Every client gets favourable settings: our part size and concurrency, a pool that
// keeps all connections, and no checksums, although our client computes some.
// Retries are the SDK's own.
package main
