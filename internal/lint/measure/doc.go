// Package measure counts the properties of a Go tree that a review of style
// compares: the sizes of functions, files and types, names with several
// meanings, the share of tests and comments, and habits of hard English.
//
//	m, err := measure.Tree(top, files)
//	measure.Write(os.Stdout, []string{"before", "after"}, []*measure.Tree{a, b})
//
// The figures describe a tree and decide nothing; the gates of the house are in
// the other packages of internal/lint.
package measure
