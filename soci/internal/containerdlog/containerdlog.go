// Package containerdlog sends the log lines of containerd's packages to a
// *slog.Logger. Without this package, these lines go to standard error in
// containerd's own format, even between lines of JSON.
//
//	containerdlog.Redirect(logger)                 // at the start of a program
//	ctx = containerdlog.With(ctx, logger)          // for one call of containerd's code
//
// Redirect must not run concurrently with other uses of this package or of
// containerd's log.
package containerdlog

import (
	"context"
	"io"
	"log/slog"
	"maps"
	"slices"

	"github.com/containerd/log"
)

// With returns a context whose lines go to l.
func With(ctx context.Context, l *slog.Logger) context.Context {
	logger := fresh(log.L.Logger)
	logger.Hooks, logger.Formatter = maps.Clone(log.L.Logger.Hooks), log.L.Logger.Formatter
	clear(logger.Hooks)
	logger.SetOutput(io.Discard)
	logger.SetLevel(log.DebugLevel) // pass all lines on, because l filters by level
	logger.AddHook(hook{l})
	return log.WithLogger(ctx, &log.Entry{Logger: logger})
}

// Redirect sends the lines of all contexts without a logger to l.
func Redirect(l *slog.Logger) {
	log.L.Logger.SetOutput(io.Discard)
	log.L.Logger.SetLevel(log.DebugLevel)
	hooks := maps.Clone(log.L.Logger.Hooks)
	clear(hooks) // drop the hook of an earlier call
	hooks.Add(hook{l})
	log.L.Logger.ReplaceHooks(hooks)
}

// fresh returns a new value of a type that cannot be named without importing
// its package.
func fresh[T any](*T) *T { return new(T) }

// hook forwards log lines.
type hook struct{ to *slog.Logger }

// Levels implements logrus.Hook.
func (hook) Levels() []log.Level {
	return []log.Level{log.PanicLevel, log.FatalLevel, log.ErrorLevel, log.WarnLevel, log.InfoLevel, log.DebugLevel}
}

// Fire implements logrus.Hook.
func (h hook) Fire(e *log.Entry) error {
	level := slog.LevelDebug
	switch e.Level {
	case log.PanicLevel, log.FatalLevel, log.ErrorLevel:
		level = slog.LevelError
	case log.WarnLevel:
		level = slog.LevelWarn
	case log.InfoLevel:
		level = slog.LevelInfo
	default:
	}
	ctx := e.Context
	if ctx == nil {
		ctx = context.Background()
	}
	attrs := make([]slog.Attr, 0, len(e.Data))
	for _, k := range slices.Sorted(maps.Keys(e.Data)) {
		attrs = append(attrs, slog.Any(k, e.Data[k]))
	}
	h.to.LogAttrs(ctx, level, e.Message, attrs...)
	return nil
}
