//go:build race

package fastpath

// raceEnabled: pools forget on purpose.
const raceEnabled = true
