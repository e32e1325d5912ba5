// Package printable makes text from other machines safe to print on a terminal, in
// a log line or in an error message.
//
//	fmt.Fprintln(os.Stderr, "registry says:", printable.Line(body, 200))
//
// Such text comes from error bodies of servers, names of files, layers and members,
// messages of peers, and credential helpers. Printed raw it can clear a screen, set
// a window title, or start a line that looks like one of ours (terminal escapes,
// CWE-150; log injection, CWE-117).
//
// All functions are pure and safe for concurrent use. Non-goal: escaping for HTML,
// shells or SQL.
package printable
