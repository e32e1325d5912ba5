// Package version reports the version and commit of Penstock from which a program
// was built, for --version, for logs at start, and for the build_info metrics.
//
//	fmt.Println(version.Line("penstock-pull")) // penstock-pull v0.3.0 (commit 1a2b3c4d5e6f, go1.26.8, linux/amd64)
//
// It reads the build information that the Go linker records
// (runtime/debug.ReadBuildInfo), so a plain go build or go install needs no flags.
// A build without it, such as a test binary, is "devel".
//
// All functions are safe for concurrent use. Non-goals: release notes, and
// comparison of versions.
package version
