// Package redacttest checks that no exported struct of a package prints its
// secrets.
//
//	redacttest.Check(t, map[string]string{"Object.Key": "the name of an object"}, new(Options), new(Object))
//
// A new exported struct, and a new field whose name sounds like a secret, fail
// the check until they are redacted or listed as harmless.
package redacttest
