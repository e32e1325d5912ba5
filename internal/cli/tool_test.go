package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/penstock/penstock/internal/cli/clitest"
)

func newTool() *Tool {
	return &Tool{Name: "tool", About: "A tool that exists for a test.", Commands: []Sub{
		{"get", "read one object", func(_ context.Context, args []string, s Streams) error {
			fmt.Fprint(s.Out, strings.Join(args, " "))
			return nil
		}},
		{"fail", "fail in the way that the argument names", func(_ context.Context, args []string, _ Streams) error {
			return map[string]error{
				"usage": Usage(errors.New("wrong")), "help": ErrHelp, "reported": ErrReported,
				"both": errors.Join(errors.New("one"), errors.New("two\x07")),
			}[args[0]]
		}},
	}}
}

func TestToolExitCodes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		line      string
		code      int
		out, errs string
	}{
		{"get a b", 0, "a b", ""},
		{"fail usage", 2, "", "tool fail: wrong\n"},
		{"fail both", 1, "", "tool fail: one; two\\a\n"},
		{"fail reported", 1, "", ""},
		{"fail help", 0, "", ""},
		{"", 2, "", "tool: no command: use get or fail (see tool --help)\n"},
		{"help get", 0, "--help", ""},
		{"help fly", 2, "", "tool: command \"fly\" is unknown: use get or fail (see tool --help)\n"},
		{"fly", 2, "", "tool: command \"fly\" is unknown: use get or fail (see tool --help)\n"},
	} {
		var out, errs bytes.Buffer
		code := newTool().Run(t.Context(), strings.Fields(c.line), Streams{&out, &errs})
		if code != c.code || out.String() != c.out || errs.String() != c.errs {
			t.Errorf("%q: exit %d, %q, %q; want %d, %q, %q", c.line, code, &out, &errs, c.code, c.out, c.errs)
		}
	}
}

func TestToolHelpAndVersion(t *testing.T) {
	t.Parallel()
	for _, arg := range []string{"help", "-h", "-help", "--help"} {
		var out, errs bytes.Buffer
		if code := newTool().Run(t.Context(), []string{arg}, Streams{&out, &errs}); code != 0 || errs.Len() > 0 {
			t.Errorf("%s: exit %d, %q", arg, code, &errs)
		}
		clitest.Golden(t, "tool.txt", out.String())
	}
	for _, arg := range []string{"version", "-version", "--version"} {
		var out, errs bytes.Buffer
		code := newTool().Run(t.Context(), []string{arg}, Streams{&out, &errs})
		if code != 0 || !strings.HasPrefix(out.String(), "tool ") || strings.Count(out.String(), "\n") != 1 {
			t.Errorf("%s: exit %d, %q", arg, code, &out)
		}
	}
}

func TestToolDefault(t *testing.T) {
	t.Parallel()
	tool := newTool()
	tool.Default = func(_ context.Context, args []string, s Streams) error {
		fmt.Fprintf(s.Out, "default %q", args)
		return nil
	}
	for line, want := range map[string]string{"": `default []`, "x get": `default ["x" "get"]`, "get x": "x", "help": `default ["--help"]`, "help x": `default ["x" "--help"]`} {
		var out bytes.Buffer
		if code := tool.Run(t.Context(), strings.Fields(line), Streams{&out, &out}); code != 0 || out.String() != want {
			t.Errorf("%q: exit %d, %q, want %q", line, code, &out, want)
		}
	}
}
