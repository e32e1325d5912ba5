// Command replicas counts what a number of caches ask their source, when the
// queries of a cluster are spread over them. The caches are stores as the
// plugin uses them, the time is simulated.
//
//	replicas -rate 1000000 -warm 30s -measure 60s -replicas 1,4,16 <trace >results
//
// benchmarks/dns/replicas makes the trace and the report, and is the program
// to run. This one is apart from it because only code below dnsplugin may use
// the store.
//
// # Vocabulary
//
//   - trace: the packed answer to each distinct question, and the questions in
//     the order in which they are asked. It is read from standard input as a
//     [Trace] in the form of encoding/gob, and played again when it is over.
//   - replica: a store for denials and one for successes, asked in the order
//     in which the plugin asks them.
//   - miss: a query whose answer is not there or has no second left. The
//     replica asks upstream then, and has the answer at once.
//
// # How it works
//
// Query i of the cluster comes at i divided by the rate. A seeded hash of i
// selects its replica, as a load balancer that picks at random does. Replicas are
// independent, so they are simulated one after the other, and 6,250 full stores
// need not be in memory together. Counting starts after the warm-up.
//
// Equal seeds give equal results as long as no entry is evicted: the store's
// hash, which decides who is neighbour to whom, is random on purpose. Evictions
// are counted with the rest.
//
// # Failure model
//
// A trace that is broken or holds an answer that the plugin would not keep, and
// flags that make no sense, end the program with a sentence and a status of 1.
//
// # Not here
//
// Stale answers, prefetch, misses that come while one is under way, and the
// time that the source takes: each changes the number of questions by little.
package main
