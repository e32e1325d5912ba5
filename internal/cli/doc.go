// Package cli is the command line that all Penstock programs share: one
// dialect of flags, one layout of help, one table of exit codes, one progress
// meter, and one way to print an error.
//
//	c := cli.New("penstock-pull", cli.Help{Usage: []string{"--root DIR [flags] REFERENCE"}})
//	f := c.Group("Output")
//	f.StringVar(&root, "root", "", "`DIR` that receives all layers, applied to one tree")
//	c.LogFlags(slog.LevelWarn)
//	args, err := c.Parse(os.Args[1:], os.Stdout)
//
// Flags follow the GNU conventions of [github.com/spf13/pflag]. Long names have
// two dashes, and one-letter names have one. Flags may come before or after the
// positional arguments, and "--" ends the flags. The back-quoted word
// of a flag's description names its value in the help.
//
// Some flags mean the same thing in every program that has them:
//
//	--json                  print the result as JSON on standard output
//	--progress, -q          progress on standard error: auto, plain or none
//	--log-format            text or json, on standard error
//	--log-level, -v         debug, info, warn or error; -v is debug
//
// A [Tool] dispatches to subcommands and turns their errors into exit codes:
// 0 is success, 1 a failure, 2 a wrong command line. Each error is printed as
// one line, with control characters of remote text escaped.
//
// The earlier spellings of flags (single-dash long names, and the names that
// [Command.Old] lists) still work for one release, do not appear in the help,
// and log one line that names the new spelling.
//
// No flag takes a secret, because every process of a machine can read the
// arguments of the others; clitest.Golden checks the names of all flags.
//
// A Command and a Tool belong to one goroutine. A [Meter] may be called from
// several. Non-goals: configuration files, and flags read from the environment.
package cli
