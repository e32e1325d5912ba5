package cli

import (
	"fmt"
	"io"
	"strconv"
	"strings"
)

// Old is an earlier spelling of a flag, which stays valid for one release:
//
//	{"--no-sign-request", "--anonymous"}      a new name
//	{"--json", "--log-format=json"}           a switch that became a value
//	{"--progress=false", "--progress=none"}   a value that became another one
type Old struct{ Flag, New string }

// Old declares earlier spellings. Long names with a single dash need no
// declaration: they are accepted for every flag.
func (c *Command) Old(old ...Old) { c.old = append(c.old, old...) }

// PrintOld prints one line on w if the parsed command line uses old spellings.
// It is for commands without a logger; [Command.Logger] logs the same.
func (c *Command) PrintOld(w io.Writer) {
	if len(c.used) > 0 {
		fmt.Fprintf(w, "%s: %s: %s\n", c.name, oldMessage, strings.Join(c.used, ", "))
	}
}

const oldMessage = "old spelling of a flag, which the next release will not accept"

// modern rewrites the old spellings among the arguments, and records them in
// c.used. Positional arguments and the values of flags stay as they are.
func (c *Command) modern(args []string) []string {
	c.used = nil
	var out []string
	for i := 0; i < len(args); i++ {
		arg := args[i]
		if arg == "--" {
			return append(out, args[i:]...)
		}
		now := c.dashes(arg)
		old := now != arg
		was, is := nameOf(arg), nameOf(now)
		if renamed, from, to := c.renamed(now); from != "" {
			if !old {
				was = from
			}
			now, is, old = renamed, to, true
		}
		if old {
			c.used = append(c.used, was+" is now "+is)
		}
		out = append(out, now)
		if c.takesNext(now) && i+1 < len(args) {
			i++
			out = append(out, args[i])
		}
	}
	return out
}

// dashes gives a long name its second dash, and a one-letter name only one.
func (c *Command) dashes(arg string) string {
	long, hasTwo := strings.CutPrefix(arg, "--")
	if hasTwo {
		if name := nameOf(long); len(name) == 1 && c.all.ShorthandLookup(name) != nil {
			return "-" + long
		}
		return arg
	}
	name, hasOne := strings.CutPrefix(nameOf(arg), "-")
	if hasOne && len(name) > 1 && c.isLong(name) {
		return "-" + arg
	}
	return arg
}

// renamed applies the table of old spellings to one argument. It returns the new
// argument and the two spellings to report. from is empty if no entry applies.
func (c *Command) renamed(arg string) (now, from, to string) {
	name, value, hasValue := strings.Cut(arg, "=")
	for _, old := range c.old {
		newName, _, isSwitch := strings.Cut(old.New, "=")
		switch {
		case old.Flag == arg && hasValue:
			return old.New, arg, old.New
		case old.Flag != name:
		case isSwitch && hasValue:
			on, err := strconv.ParseBool(value)
			if err != nil { // the new flag refuses the value
				return newName + "=" + value, name, newName
			}
			if on {
				return old.New, name, old.New
			}
			if flag := c.all.Lookup(strings.TrimPrefix(newName, "--")); flag != nil {
				return newName + "=" + flag.DefValue, arg, newName + "=" + flag.DefValue
			}
		case hasValue:
			return newName + "=" + value, name, newName
		default:
			return old.New, name, old.New
		}
	}
	return arg, "", ""
}

// nameOf returns an argument without its value.
func nameOf(arg string) string {
	name, _, _ := strings.Cut(arg, "=")
	return name
}

// isLong reports whether name is a long flag or an earlier spelling of one.
func (c *Command) isLong(name string) bool {
	if name == "help" || c.all.Lookup(name) != nil {
		return true
	}
	for _, old := range c.old {
		if nameOf(old.Flag) == "--"+name {
			return true
		}
	}
	return false
}

// takesNext reports whether the argument is a flag whose value is the next
// argument.
func (c *Command) takesNext(arg string) bool {
	if long, ok := strings.CutPrefix(arg, "--"); ok {
		flag := c.all.Lookup(long)
		return flag != nil && flag.NoOptDefVal == ""
	}
	letters, ok := strings.CutPrefix(arg, "-")
	if !ok {
		return false
	}
	for i := range len(letters) {
		flag := c.all.ShorthandLookup(letters[i : i+1])
		if flag == nil {
			return false
		}
		if flag.NoOptDefVal == "" {
			return i == len(letters)-1
		}
	}
	return false
}
