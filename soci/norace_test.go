//go:build !race

package soci_test

// raceEnabled: the detector takes several times the memory.
const raceEnabled = false
