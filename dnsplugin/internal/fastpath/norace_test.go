//go:build !race

package fastpath

// raceEnabled tells whether pools drop their items on purpose.
const raceEnabled = false
