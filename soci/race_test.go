//go:build race

package soci_test

// raceEnabled is set under the race detector, which takes several times the
// memory.
const raceEnabled = true
