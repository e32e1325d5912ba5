package cli

import (
	"io"
	"log/slog"
	"strings"
)

// logFormat is the value of --log-format.
type logFormat string

const (
	logText logFormat = "text"
	logJSON logFormat = "json"
)

// logFlags are the values of the flags of logging.
type logFlags struct {
	format  logFormat
	level   string
	verbose bool
}

// LogFlags adds --log-format, --log-level and -v. level is the default level.
func (c *Command) LogFlags(level slog.Level) {
	f := c.Group("Log flags (the log goes to standard error)")
	c.logs = logFlags{format: logText, level: strings.ToLower(level.String())}
	Choice(f, &c.logs.format, "log-format", "form of the log lines", logText, logJSON)
	Choice(f, &c.logs.level, "log-level", "least important `LEVEL` that is logged: debug, info, warn or error", "debug", "info", "warn", "error")
	f.BoolVarP(&c.logs.verbose, "verbose", "v", false, "log every step, retry and hedge: --log-level=debug")
}

// LogsJSON reports whether --log-format is json.
func (c *Command) LogsJSON() bool { return c.logs.format == logJSON }

// Logger returns the logger that the flags ask for, which writes to w. It logs
// the old spellings that the command line uses.
func (c *Command) Logger(w io.Writer) *slog.Logger {
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.logs.level)); err != nil {
		level = slog.LevelInfo // not reachable, because Choice has checked the word
	}
	if c.logs.verbose {
		level = slog.LevelDebug
	}
	o := &slog.HandlerOptions{Level: level}
	log := slog.New(slog.NewTextHandler(w, o))
	if c.LogsJSON() {
		log = slog.New(slog.NewJSONHandler(w, o))
	}
	if len(c.used) > 0 {
		log.Warn(oldMessage, "flags", strings.Join(c.used, ", "))
	}
	return log
}

// DefaultLogLevel changes the default level after the flags are parsed, for
// commands whose default depends on other flags.
func (c *Command) DefaultLogLevel(level slog.Level) {
	if !c.Changed("log-level") {
		c.logs.level = strings.ToLower(level.String())
	}
}
