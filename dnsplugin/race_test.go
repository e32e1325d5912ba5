//go:build race

package dnsplugin

// raceEnabled: pools forget on purpose.
const raceEnabled = true
