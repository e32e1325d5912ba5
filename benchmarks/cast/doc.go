// Command cast measures the distribution of one object to all processes of a job:
// a Penstock leader that reads it once and broadcasts it, against clients of the
// AWS SDK that each read it themselves.
//
//	make bench AREA=cast
//	make bench AREA=cast ARGS=-quick
//
// All processes run on this machine and talk over loopback; the CPU figure
// is the sum over all clients. The origin's counters say how often the object
// left the store.
//
// The first argument job or each selects the role of a contestant, which starts
// the processes of a job and waits for them.
package main
