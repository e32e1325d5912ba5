package cli

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/pflag"
)

// Help describes a command to people. The flags describe themselves.
type Help struct {
	// Usage lists the forms of the command line without the program's name.
	Usage []string
	// About describes the command in one or two sentences.
	About string
	// Examples are complete command lines.
	Examples []string
	// Exit describes the exit codes, if "0 done, 1 failed" is not all.
	Exit string
	// Env lists the environment variables that the command reads.
	Env []Entry
}

// Entry is a name with its description.
type Entry struct{ Name, About string }

// Command reads one command line.
type Command struct {
	name   string
	help   Help
	groups []*group
	all    *pflag.FlagSet
	old    []Old
	used   []string // old spellings of this command line, each with its new one

	logs     logFlags
	progress Progress
	quiet    bool
}

// group is a part of the flags under a title of its own.
type group struct {
	title string
	flags *pflag.FlagSet
}

// New returns a command without flags. The name includes the program's, as in
// "penstock-pull prefetch".
func New(name string, help Help) *Command {
	return &Command{name: name, help: help}
}

// Group adds an empty group of flags, which the help prints under the title.
func (c *Command) Group(title string) *pflag.FlagSet {
	f := pflag.NewFlagSet(c.name, pflag.ContinueOnError)
	f.SortFlags = false
	c.groups = append(c.groups, &group{title, f})
	return f
}

// Parse reads the arguments and returns the positional ones. If they ask for
// help, Parse prints it on stdout and returns [ErrHelp]. All other errors are
// of type [UsageError].
func (c *Command) Parse(args []string, stdout io.Writer) ([]string, error) {
	c.merge()
	err := c.all.Parse(c.modern(args))
	switch {
	case errors.Is(err, pflag.ErrHelp):
		if _, err := io.WriteString(stdout, c.Text()); err != nil {
			return nil, err
		}
		return nil, ErrHelp
	case err != nil:
		return nil, Usage(fmt.Errorf("%w (see %s --help)", plainer(err), c.name))
	}
	return c.all.Args(), nil
}

// Changed reports whether the command line sets the flag.
func (c *Command) Changed(name string) bool { return c.all.Changed(name) }

// merge puts the flags of all groups into one set.
func (c *Command) merge() {
	c.all = pflag.NewFlagSet(c.name, pflag.ContinueOnError)
	c.all.Usage = func() {} // Parse prints the help
	for _, g := range c.groups {
		c.all.AddFlagSet(g.flags)
	}
}

// plainer drops the parts of pflag's errors that name its Go functions.
func plainer(err error) error {
	e, ok := errors.AsType[*pflag.InvalidValueError](err)
	if !ok {
		return err
	}
	cause := e.Unwrap()
	text := cause.Error()
	if _, after, found := strings.Cut(text, ": parsing "); found && strings.HasPrefix(text, "strconv.") {
		_, text, _ = strings.Cut(after, ": ") // strconv.ParseBool: parsing "x": invalid syntax
	}
	flag := e.GetFlag()
	if flag.Value.Type() == "bool" {
		text = "want true or false"
	}
	return fmt.Errorf("--%s %q: %s", flag.Name, e.GetValue(), text)
}
