// Package printable makes text of foreign origin safe to print: on a terminal, in a log line, in an error message.
//
//	fmt.Fprintln(os.Stderr, "registry says:", printable.Line(body, 200))
//
// Foreign text is whatever another machine or an archive chose: error bodies of servers, names of files, layers and
// members, messages of peers, output of credential helpers. Printed raw it can clear a screen, set a window title,
// or begin a line that looks like ours (terminal escapes, CWE-150; log injection, CWE-117).
//
// All functions are pure and safe for concurrent use. Non-goal: escaping for HTML, shells or SQL.
package printable
