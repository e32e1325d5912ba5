package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/pflag"
)

const (
	// helpWidth is the width of the help in columns.
	helpWidth = 80
	// helpIndent is the column at which descriptions start.
	helpIndent = 30
	// helpGap is the number of blanks before an entry and after its name.
	helpGap = 2
)

// defaultExit describes the exit codes of commands that do not say more.
const defaultExit = "0 done, 1 failed, 2 wrong command line"

// Text returns the help: usage lines, description, flags by group, examples, exit
// codes and environment.
func (c *Command) Text() string {
	c.merge()
	var b strings.Builder
	for i, form := range c.help.Usage {
		lead := "usage: "
		if i > 0 {
			lead = "       "
		}
		fmt.Fprintf(&b, "%s%s\n", lead, strings.TrimSpace(c.name+" "+form))
	}
	paragraph(&b, c.help.About)
	for _, g := range c.groups {
		fmt.Fprintf(&b, "\n%s:\n", g.title)
		g.flags.VisitAll(func(f *pflag.Flag) {
			if !f.Hidden {
				entry(&b, flagName(f), flagAbout(f))
			}
		})
	}
	if len(c.help.Examples) > 0 {
		b.WriteString("\nExamples:\n")
		for _, e := range c.help.Examples {
			fmt.Fprintf(&b, "  %s\n", e)
		}
	}
	exit := c.help.Exit
	if exit == "" {
		exit = defaultExit
	}
	paragraph(&b, "Exit code: "+exit+".")
	if len(c.help.Env) > 0 {
		b.WriteString("\nEnvironment:\n")
		for _, e := range c.help.Env {
			entry(&b, e.Name, e.About)
		}
	}
	return b.String()
}

// flagName returns the first column of a flag, such as "-o, --output DIR".
func flagName(f *pflag.Flag) string {
	name := "--" + f.Name
	if f.Shorthand != "" {
		name = "-" + f.Shorthand + ", " + name
	}
	if value, _ := pflag.UnquoteUsage(f); value != "" {
		name += " " + value
	}
	return name
}

// flagAbout returns the second column of a flag, with its default.
func flagAbout(f *pflag.Flag) string {
	value, about := pflag.UnquoteUsage(f)
	if value != "" && !strings.Contains(f.Usage, "`"+value+"`") {
		about = f.Usage
	}
	switch f.DefValue {
	case "", "0", "0s", "false", "[]":
		return about
	}
	return about + " (default " + shortDuration(f) + ")"
}

// shortDuration returns the default of a flag. At the end of a duration it omits
// the parts that are zero, so 1h0m0s becomes 1h.
func shortDuration(f *pflag.Flag) string {
	s := f.DefValue
	if f.Value.Type() != "duration" {
		return s
	}
	if t, ok := strings.CutSuffix(s, "m0s"); ok {
		s = t + "m"
	}
	if t, ok := strings.CutSuffix(s, "h0m"); ok {
		s = t + "h"
	}
	return s
}

// paragraph writes text after an empty line, wrapped.
func paragraph(b *strings.Builder, text string) {
	if text == "" {
		return
	}
	b.WriteByte('\n')
	for _, l := range wrap(text, helpWidth) {
		b.WriteString(l + "\n")
	}
}

// entry writes a name and its description in two columns. A long name gets a
// line of its own.
func entry(b *strings.Builder, name, about string) {
	lines := wrap(about, helpWidth-helpIndent)
	lead := strings.Repeat(" ", helpGap) + name
	if len(lead)+helpGap > helpIndent {
		b.WriteString(lead + "\n")
		lead = ""
	}
	for _, l := range lines {
		fmt.Fprintf(b, "%-*s%s\n", helpIndent, lead, l)
		lead = ""
	}
}

// wrap breaks text at blanks into lines of at most width bytes.
func wrap(text string, width int) []string {
	var lines []string
	line := ""
	for word := range strings.FieldsSeq(text) {
		if line != "" && len(line)+1+len(word) > width {
			lines = append(lines, line)
			line = ""
		}
		line = strings.TrimPrefix(line+" "+word, " ")
	}
	return append(lines, line)
}
