package cli

import (
	"errors"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"github.com/penstock/penstock/internal/bytesize"
)

// Bytes adds a flag for a size, read by [bytesize.Parse]. The variable keeps
// its value as the default; zero prints none.
func Bytes(f *pflag.FlagSet, p *int64, name, usage string) {
	f.Var(&size{p, bytesize.Parse}, name, usage)
}

// PositiveBytes is Bytes for sizes of at least one byte.
func PositiveBytes(f *pflag.FlagSet, p *int64, name, usage string) {
	f.Var(&size{p, bytesize.ParsePositive}, name, usage)
}

// BytesOrNone is PositiveBytes, except that "none" sets -1.
func BytesOrNone(f *pflag.FlagSet, p *int64, name, usage string) {
	f.Var(&size{p, bytesize.ParseOrNone}, name, usage)
}

// size is a pflag.Value.
type size struct {
	p     *int64
	parse func(string) (int64, error)
}

func (s *size) String() string { return bytesize.Format(*s.p) }
func (s *size) Type() string   { return "BYTES" }

func (s *size) Set(v string) (err error) {
	n, err := s.parse(v)
	if err == nil {
		*s.p = n
	}
	return err
}

// Choice adds a flag that takes one of the given words. The variable keeps its
// value as the default.
func Choice[S ~string](f *pflag.FlagSet, p *S, name, usage string, words ...S) {
	f.Var(&choice[S]{p, words}, name, usage)
}

// choice is a pflag.Value.
type choice[S ~string] struct {
	p     *S
	words []S
}

func (c *choice[S]) String() string { return string(*c.p) }

func (c *choice[S]) Type() string { return c.join("|") }

func (c *choice[S]) Set(v string) error {
	if !slices.Contains(c.words, S(v)) {
		return errors.New("want " + c.join(", "))
	}
	*c.p = S(v)
	return nil
}

func (c *choice[S]) join(by string) string {
	all := make([]string, len(c.words))
	for i, w := range c.words {
		all[i] = string(w)
	}
	return strings.Join(all, by)
}

// Func adds a flag whose values go to set; the usage states the default, if
// any.
func Func(f *pflag.FlagSet, name, usage string, set func(string) error) {
	f.Var(function(set), name, usage)
}

// function is a pflag.Value.
type function func(string) error

func (function) String() string       { return "" }
func (function) Type() string         { return "VALUE" }
func (f function) Set(v string) error { return f(v) }

// ShowDefault sets the default that the help prints for a flag whose variable
// is empty or zero by default because the library knows the default.
func ShowDefault(f *pflag.FlagSet, name, text string) { f.Lookup(name).DefValue = text }
