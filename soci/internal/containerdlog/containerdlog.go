// Package containerdlog leads the log lines of containerd's packages, which we link in, to a
// *slog.Logger. Otherwise they appear on standard error in a format of their own, between
// lines of JSON too.
//
//	containerdlog.Redirect(logger)                 // in a program, before it starts anything
//	ctx = containerdlog.With(ctx, logger)          // for one call of containerd's code
//
// Nothing here may be used while another goroutine calls Redirect.
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
	logger.SetLevel(log.DebugLevel) // l decides
	logger.AddHook(hook{l})
	return log.WithLogger(ctx, &log.Entry{Logger: logger})
}

// Redirect leads the lines of all contexts that name no logger to l.
func Redirect(l *slog.Logger) {
	log.L.Logger.SetOutput(io.Discard)
	log.L.Logger.SetLevel(log.DebugLevel)
	hooks := maps.Clone(log.L.Logger.Hooks)
	clear(hooks) // an earlier call's
	hooks.Add(hook{l})
	log.L.Logger.ReplaceHooks(hooks)
}

// fresh makes a value of a type that can not be named without importing its package.
func fresh[T any](*T) *T { return new(T) }

// hook hands lines on.
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
