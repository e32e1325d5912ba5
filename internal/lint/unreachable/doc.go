// Package unreachable turns the output of deadcode into a gate: code that no
// program and no user of the public packages can reach is a failure, unless an
// allow-list names it and its reason.
//
//	unreachable.Roots(file, module, top, paths)      // a program that refers to the public API
//	funcs, err := unreachable.Parse(deadcodeJSON)    // deadcode -json ROOTS PROGRAMS...
//	allowed, err := unreachable.ReadAllowed(list)
//	problems := unreachable.Compare(funcs, allowed)
//
// Tests are not roots: a function that only its test calls is the very thing to
// find. deadcode follows the call graph of golang.org/x/tools/go/callgraph/rta, which
// takes a method as reachable once its type is converted to an interface; so the
// gate misses some methods and never reports a function that runs.
package unreachable
