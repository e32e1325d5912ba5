// Package admission decides which queries may enter the plugin chain, which
// wait, and which are dropped. It is pure: it has no clock, goroutine or lock.
package admission
