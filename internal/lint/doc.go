// Package lint holds the rules of the house that no public linter knows, as
// tests: the import graph, what a package must carry, what the documents may
// claim. Run them with
//
//	go test ./internal/lint/...
//
// There is nothing to import here. A failure names the file and what to do.
// When the import graph refuses an import, the answer is a smaller interface
// on the side of the consumer, not a looser table: change the table only
// together with docs/architecture.md and a decision.
//
// The tests read the tree through go list and git ls-files; they write
// nothing and need no network.
package lint
