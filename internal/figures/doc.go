// Package figures writes the figures of the documents from the recorded
// results of the benchmarks, so that a document cannot state an old figure.
//
//	changed, err := figures.Update(root) // what make figures does
//
// # Vocabulary
//
// A result is a file benchmarks/AREA/results/DATE-COMMIT/result.json. A block
// is the text between the lines
//
//	<!-- figures:NAME -->
//	<!-- /figures -->
//
// of a document. NAME is "headline", the short table of the README, or the name
// of an area, which stands for all its tables. An area may have several results;
// each table and each target comes from the newest result that has it.
//
// # Failure
//
// An unknown block, a block without an end and a table or row that a block
// needs and no result has are errors that name the document or the area. The
// files are written only after every block could be made.
//
// All functions are safe for concurrent use. Non-goals: plots (the benchmarks
// draw them) and statistics (the results carry medians and ranges already).
package figures
