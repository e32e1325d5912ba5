// Package tartest builds archives for tests, byte by byte where archive/tar
// refuses to write them, and compares package tarfile with archive/tar.
//
// Only tests import it.
package tartest
