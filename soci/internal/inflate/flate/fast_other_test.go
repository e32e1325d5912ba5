//go:build !linux || !amd64 || purego || noasm

package flate

// eachLoop calls f with every fast loop that this processor has.
func eachLoop(f func()) { f() }
