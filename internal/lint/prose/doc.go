// Package prose counts habits of English that make comments, error texts and
// documents hard to read, so that a package cannot fall back into them.
//
//	units, err := prose.Tree(".", files)       // one Unit for each folder
//	ceilings, err := prose.ReadCeilings(r)     // what a folder may still have
//	for _, v := range prose.Check(units, ceilings) { ... }
//
// A [Habit] is a regular expression with a rate: how often it may occur in 1,000
// lines of prose. The rates are twice what five Go projects with good prose
// have (pebble, restic, go-fuse, coredns, go-containerregistry: 3,913 comment
// lines), so a habit that those projects never show is not allowed at all. An
// expression finds the form of a sentence, not its quality: a text that passes
// can still be hard to read.
//
// Prose is the comments of Go files, joined over their lines, the string
// literals of Go files other than tests that hold at least three words, and
// Markdown outside of code. A folder that is above a rate stands in the file of
// ceilings with its exact count; the count there can fall and never rise.
//
// Command prose prints the counts and the offending lines.
package prose
