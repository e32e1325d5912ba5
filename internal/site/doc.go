// Command site makes the static site of the documents: every Markdown file that
// people read, and the benchmark results with their plots, as HTML that loads
// nothing from elsewhere. Run it by make site.
//
//	go run . -root ../.. -out ../../site
//
// # Vocabulary
//
// A page is a Markdown file and its HTML. An asset is a file that a page shows,
// such as a plot. A link to a page or asset stays inside the site; a link to any
// other file of the tree leads to the repository on the web.
//
// # Failure
//
// A link to a file or heading that does not exist, and a page that the
// navigation does not list, are errors that name the page. Nothing is written
// before all pages could be made. After writing, every link and anchor of the
// HTML is checked again.
//
// The program is a module of its own, so that users of the library do not
// download the Markdown library. Non-goals: search, versions, JavaScript.
package main
