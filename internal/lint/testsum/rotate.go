package testsum

import (
	"hash/fnv"
	"slices"
)

// Rotate returns the list from a place that the seed decides: the entries before
// that place follow at the end. Every entry is first with the same probability over
// all seeds, and neighbours stay neighbours. An empty seed leaves the list as it is.
func Rotate(list []string, seed string) []string {
	if seed == "" || len(list) == 0 {
		return list
	}
	h := fnv.New64a()
	h.Write([]byte(seed))
	// FNV's low bits depend on the last byte of the seed most.
	at := int((h.Sum64() >> 16) % uint64(len(list)))
	return slices.Concat(list[at:], list[:at])
}
