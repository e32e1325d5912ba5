// Package peer tests zTOCs with SOCI's own reader, which needs cgo and a static
// libz. It is a module of its own, so that who imports Penstock does not need
// either.
//
//	CGO_ENABLED=1 CGO_LDFLAGS="-L/usr/lib/$(gcc -print-multiarch)" go test ./...
package peer
