//go:build !linux

package testsum

// canMakeNetNS reports that there are no namespaces.
func canMakeNetNS() bool { return false }
