// Command engine compares the range engine with other readers of objects for Go: a
// hand-written ranged reader over net/http, the AWS SDK's feature/s3/manager and
// its successor feature/s3/transfermanager.
//
//	make bench AREA=engine                   # under ten minutes on 2 cores
//	make bench AREA=engine ARGS=-quick       # checks that everything runs; no figures
//
// It starts an origin (internal/testorigin) as a process of its own, with files
// in memory made of this machine's Go tree, and runs every client as a process
// of its own, in turns: one object of 4 GiB, 2,000 objects of 1 MiB, and 1 GiB
// under faults. It writes its output into benchmarks/engine/results too.
//
// The first argument selects another role of the same binary: origin, ours or
// plain. The peers are a second binary, built from the module in peers.
package main
