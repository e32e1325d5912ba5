// Package sides holds the two sides of the DNS cache, successes and denials,
// and makes every decision about a query that depends on them: which entry
// answers it, whether the source must be asked, before the reply or after it,
// which TTL the reply has, and whether equal misses may share one fetch.
//
// The plugin chain and the fast path both act on these decisions, so they
// cannot give different answers.
package sides
