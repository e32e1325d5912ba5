package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/penstock/penstock/internal/version"
)

// Streams are the standard output and error of a program.
type Streams struct{ Out, Err io.Writer }

// Sub is a subcommand.
type Sub struct {
	Name  string
	About string // one line for the help of the program
	Run   func(ctx context.Context, args []string, s Streams) error
}

// Tool is a program: its subcommands, and a default one if it has one.
type Tool struct {
	Name     string
	About    string
	Commands []Sub
	// Default runs if the first argument is not a subcommand. Without it, a
	// subcommand is required.
	Default func(ctx context.Context, args []string, s Streams) error
}

// Run runs the program and returns its exit code. It prints errors on s.Err,
// one line each, after the name of the program and of the subcommand. The
// arguments are those after the program's name.
func (t *Tool) Run(ctx context.Context, args []string, s Streams) int {
	if version.Asked(args) {
		fmt.Fprintln(s.Out, version.Line(t.Name))
		return ExitOK
	}
	name, run, args := t.pick(args)
	err := run(ctx, args, s)
	_, wrong := errors.AsType[UsageError](err)
	switch {
	case err == nil, errors.Is(err, ErrHelp):
		return ExitOK
	case errors.Is(err, ErrReported):
		return ExitFailed
	}
	fmt.Fprintf(s.Err, "%s: %s\n", name, Line(err))
	if wrong {
		return ExitUsage
	}
	return ExitFailed
}

// pick returns the name, the function and the arguments of the subcommand to run.
func (t *Tool) pick(args []string) (string, func(context.Context, []string, Streams) error, []string) {
	if len(args) > 1 && args[0] == "help" {
		args = []string{args[1], "--help"} // help COMMAND
	}
	first := ""
	if len(args) > 0 {
		first = args[0]
	}
	for _, c := range t.Commands {
		if c.Name == first {
			return t.Name + " " + c.Name, c.Run, args[1:]
		}
	}
	if t.Default != nil {
		if first == "help" {
			args = []string{"--help"}
		}
		return t.Name, t.Default, args
	}
	return t.Name, func(_ context.Context, _ []string, s Streams) error {
		switch first {
		case "help", "-h", "-help", "--help":
			_, err := io.WriteString(s.Out, t.Text())
			return err
		case "":
			return Usage(fmt.Errorf("no command: use %s (see %s --help)", t.names(), t.Name))
		}
		return Usage(fmt.Errorf("command %q is unknown: use %s (see %s --help)", first, t.names(), t.Name))
	}, nil
}

// names lists the subcommands.
func (t *Tool) names() string {
	var names []string
	for _, c := range t.Commands {
		names = append(names, c.Name)
	}
	last := len(names) - 1
	return strings.Join(names[:last], ", ") + " or " + names[last]
}

// Text returns the help of a program that requires a subcommand.
func (t *Tool) Text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "usage: %s COMMAND [flags] [arguments]\n       %s --version\n", t.Name, t.Name)
	paragraph(&b, t.About)
	b.WriteString("\nCommands:\n")
	for _, c := range t.Commands {
		entry(&b, c.Name, c.About)
	}
	fmt.Fprintf(&b, "\n\"%s COMMAND --help\" lists the flags of a command.\n", t.Name)
	paragraph(&b, "Exit code: "+defaultExit+".")
	return b.String()
}

// WriteJSON writes v as the result of a program: indented, with a line break
// at the end.
func WriteJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}
