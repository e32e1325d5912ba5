package cli

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/penstock/penstock/internal/cli/clitest"
)

// sample is a command with a flag of each kind.
type sample struct {
	*Command
	out, where         string
	memory, checkpoint int64
	wait               time.Duration
	json, sync, keep   bool
}

func newSample() *sample {
	s := &sample{Command: New("sample get", Help{
		Usage:    []string{"[flags] URI...", "--version"},
		About:    "Reads objects. This sentence is long enough that it has to be wrapped at the width of a terminal.",
		Examples: []string{"sample get -o DIR s3://bucket/key"},
		Env:      []Entry{{"SAMPLE_WHERE", "where to read"}},
	})}
	f := s.Group("Flags")
	f.StringVarP(&s.out, "output", "o", "", "`DIR` to write to")
	f.StringVar(&s.where, "where", "", "`URL` to read, with a description that needs more than one line of the help")
	Bytes(f, &s.memory, "memory", "size of all buffers")
	s.checkpoint = 128 << 20
	BytesOrNone(f, &s.checkpoint, "checkpoint", "distance between checkpoints, or none")
	f.DurationVar(&s.wait, "wait", time.Minute, "`DURATION` to wait")
	f.String("a-flag-with-a-long-name", "", "`VALUE` in a line of its own")
	f.BoolVar(&s.sync, "sync", false, "flush files")
	f.BoolVar(&s.keep, "keep", true, "keep finished files")
	f.Bool("hidden", false, "")
	f.Lookup("hidden").Hidden = true
	s.OutputFlags(&s.json)
	s.LogFlags(slog.LevelWarn)
	s.Old(Old{"--place", "--where"}, Old{"--flush", "--sync"}, Old{"--logjson", "--log-format=json"})
	return s
}

func TestFlagsAnywhere(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]string{
		"":                                      "",
		"a b":                                   "a b",
		"--memory 64MB a -o dir b --sync c":     "a b c",
		"a --memory=64MB -odir --sync -- b -o":  "a b -o",
		"a b c -o=dir --memory 64MB --sync":     "a b c",
		"-o - -":                                "-",
		"--where --memory x":                    "x", // the value of --where looks like a flag
		"-qv a":                                 "a",
		"--checkpoint none --keep=false a -- b": "a b",
	} {
		s := newSample()
		rest, err := s.Parse(strings.Fields(line), io.Discard)
		if err != nil || strings.Join(rest, " ") != want {
			t.Errorf("%q: arguments %q, %v; want %q", line, rest, err, want)
		}
		if strings.Contains(line, "64MB") && (s.memory != 64_000_000 || s.out != "dir" || !s.sync || !s.Changed("memory")) {
			t.Errorf("%q: memory %d, output %q, sync %v", line, s.memory, s.out, s.sync)
		}
		if len(s.used) > 0 {
			t.Errorf("%q: old spellings %q", line, s.used)
		}
	}
}

func TestFlagErrors(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]string{
		"--no-such":            "unknown flag: --no-such (see sample get --help)",
		"-x":                   "unknown shorthand flag: 'x' in -x (see sample get --help)",
		"-xyz":                 "unknown shorthand flag: 'x' in -xyz (see sample get --help)",
		"a --where":            "flag needs an argument: --where (see sample get --help)",
		"--memory lots":        `--memory "lots": want a number of bytes`,
		"--memory -5":          `--memory "-5": want a number of bytes`,
		"--checkpoint 0":       `--checkpoint "0": want at least 1 byte`,
		"--wait soon":          `--wait "soon": time: invalid duration "soon"`,
		"--sync=perhaps":       `--sync "perhaps": want true or false`,
		"--progress loud":      `--progress "loud": want auto, plain, none`,
		"--log-level trace":    `--log-level "trace": want debug, info, warn, error`,
		"--log-format=xml a b": `--log-format "xml": want text, json`,
		"--logjson=flase a b":  `--log-format "flase": want text, json`,
	} {
		_, err := newSample().Parse(strings.Fields(line), io.Discard)
		if _, usage := errors.AsType[UsageError](err); !usage || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", line, err, want)
		}
	}
}

// TestOldSpellings lists the spellings that the releases before the common command
// line accepted, their new forms, and the text of the log.
func TestOldSpellings(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		line string
		same string // the new command line
		say  string
	}{
		{"-memory 64MiB", "--memory 64MiB", "-memory is now --memory"},
		{"-memory=64MiB a", "--memory=64MiB a", "-memory is now --memory"},
		{"--o dir", "-o dir", "--o is now -o"},
		{"--v", "-v", "--v is now -v"},
		{"--place=here", "--where=here", "--place is now --where"},
		{"-place here", "--where here", "-place is now --where"},
		{"--flush", "--sync", "--flush is now --sync"},
		{"--flush=false", "--sync=false", "--flush is now --sync"},
		{"--logjson", "--log-format=json", "--logjson is now --log-format=json"},
		{"--logjson=1", "--log-format=json", "--logjson is now --log-format=json"},
		{"--logjson=false", "--log-format=text", "--logjson=false is now --log-format=text"},
		{"--progress=false", "--progress=none", "--progress=false is now --progress=none"},
		{"-progress=true", "--progress=auto", "-progress is now --progress=auto"},
		{"a -sync -- -memory", "a --sync -- -memory", "-sync is now --sync"},
		{"--where -memory x", "--where -memory x", ""},
		{"-ofile -x", "-ofile -x", ""},
	} {
		s := newSample()
		s.merge()
		got := s.modern(strings.Fields(c.line))
		if !slices.Equal(got, strings.Fields(c.same)) || strings.Join(s.used, ", ") != c.say {
			t.Errorf("%q became %q and says %q; want %q and %q", c.line, got, s.used, c.same, c.say)
		}
	}
	s := newSample()
	if _, err := s.Parse([]string{"-memory", "1MiB", "--flush"}, io.Discard); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	s.Logger(&log)
	if text := log.String(); strings.Count(text, "\n") != 1 || !strings.Contains(text, "-memory is now --memory, --flush is now --sync") {
		t.Errorf("log %q", text)
	}
	log.Reset()
	s.PrintOld(&log)
	if text := log.String(); strings.Count(text, "\n") != 1 || !strings.Contains(text, "-memory is now --memory, --flush is now --sync") {
		t.Errorf("printed %q", text)
	}
}

func TestHelp(t *testing.T) {
	t.Parallel()
	for _, arg := range []string{"--help", "-h", "-help"} {
		var out bytes.Buffer
		if _, err := newSample().Parse([]string{"a", arg}, &out); !errors.Is(err, ErrHelp) {
			t.Errorf("%s: %v", arg, err)
		}
		clitest.Golden(t, "help.txt", out.String())
	}
}

func TestLogFlags(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]string{
		"":                              "warn",
		"--log-level info":              "info warn",
		"-v":                            "debug info warn",
		"--log-level=error":             "",
		"--log-format json -v":          "debug info warn json",
		"--log-level error --verbose":   "debug info warn",
		"--log-format=json --quiet":     "warn json",
		"--log-format=text --log-level": "error",
	} {
		s := newSample()
		if _, err := s.Parse(strings.Fields(line), io.Discard); err != nil {
			if want != "error" {
				t.Errorf("%q: %v", line, err)
			}
			continue
		}
		var out bytes.Buffer
		log := s.Logger(&out)
		log.Debug("debug")
		log.Info("info")
		log.Warn("warn")
		var got []string
		for _, word := range []string{"debug", "info", "warn"} {
			if strings.Contains(out.String(), word) {
				got = append(got, word)
			}
		}
		if strings.HasPrefix(out.String(), "{") {
			got = append(got, "json")
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%q logs %q, want %q", line, got, want)
		}
	}
}

func TestLineIsOneLine(t *testing.T) {
	t.Parallel()
	err := errors.Join(errors.New("first\x1b[2J"), errors.New("second"))
	if got := Line(err); got != `first\x1b[2J; second` {
		t.Errorf("%q", got)
	}
	if got := Line(errors.New(strings.Repeat("x", 2*MaxLine))); len(got) != MaxLine {
		t.Errorf("%d bytes", len(got))
	}
}

// FuzzParse looks for arguments that make the parser panic, or that report an
// old spelling without changing an argument.
func FuzzParse(f *testing.F) {
	f.Add("-memory\x0064MiB\x00a")
	f.Add("--progress=false\x00-ov\x00--\x00-x")
	f.Add("-\x00--=\x00-=")
	f.Fuzz(func(t *testing.T, line string) {
		args := strings.Split(line, "\x00")
		s := newSample()
		_, err := s.Parse(args, io.Discard)
		if _, usage := errors.AsType[UsageError](err); err != nil && !usage && !errors.Is(err, ErrHelp) {
			t.Errorf("%q: %v is not a usage error", args, err)
		}
		s.merge()
		if now := s.modern(args); len(now) != len(args) || slices.Equal(now, args) != (len(s.used) == 0) {
			t.Errorf("%q became %q, said %q", args, now, s.used)
		}
	})
}
