package s3stream

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"

	"github.com/penstock/penstock/internal/redact"
)

// String returns the fields that are set, without secrets.
func (s S3) String() string { return redact.Struct(s, "SecretAccessKey", "SessionToken") }

// Format implements [fmt.Formatter]: every verb prints String.
func (s S3) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, s.String()) }

// MarshalJSON writes String as a JSON string.
func (s S3) MarshalJSON() ([]byte, error) { return json.Marshal(s.String()) }

// LogValue returns String, for log/slog.
func (s S3) LogValue() slog.Value { return slog.StringValue(s.String()) }

// String returns the fields that are set, without secrets.
func (o LeaderOptions) String() string { return redact.Struct(o, "Token") }

// Format implements [fmt.Formatter]: every verb prints String.
func (o LeaderOptions) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, o.String()) }

// MarshalJSON writes String as a JSON string.
func (o LeaderOptions) MarshalJSON() ([]byte, error) { return json.Marshal(o.String()) }

// LogValue returns String, for log/slog.
func (o LeaderOptions) LogValue() slog.Value { return slog.StringValue(o.String()) }

// String returns the fields that are set, without secrets.
func (o WorkerOptions) String() string { return redact.Struct(o, "Token") }

// Format implements [fmt.Formatter]: every verb prints String.
func (o WorkerOptions) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, o.String()) }

// MarshalJSON writes String as a JSON string.
func (o WorkerOptions) MarshalJSON() ([]byte, error) { return json.Marshal(o.String()) }

// LogValue returns String, for log/slog.
func (o WorkerOptions) LogValue() slog.Value { return slog.StringValue(o.String()) }

// Format implements [fmt.Formatter]: every verb prints the fields that are set,
// without secrets. A verb that does not fit, such as %s of a pointer, would
// otherwise print S3 without asking it.
func (o GetOptions) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redact.Struct(o)) }

// Format implements [fmt.Formatter]: a Leader shows its address, and not the
// options, which hold secrets.
func (l Leader) Format(f fmt.State, _ rune) {
	_, _ = fmt.Fprintf(f, "leader at %s", l.opts.Listen)
}

// Format implements [fmt.Formatter]: a Worker shows its leader, and not the
// options, which hold secrets.
func (w Worker) Format(f fmt.State, _ rune) {
	_, _ = fmt.Fprintf(f, "worker of %s", w.opts.Leader)
}
