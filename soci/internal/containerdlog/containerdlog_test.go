package containerdlog

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/containerd/log"
)

// TestLogFormat checks that lines of the context's logger and of the global
// logger get the format and level of our logger.
func TestLogFormat(t *testing.T) {
	var buf bytes.Buffer
	l := slog.New(slog.NewJSONHandler(&buf, nil))
	Redirect(l)
	log.G(t.Context()).WithError(errors.New("no such file")).Error("failed to load")
	log.G(With(t.Context(), l)).WithField("host", "r.example").Info("trying")
	log.G(t.Context()).Debug("too fine")
	log.G(With(t.Context(), l)).Debug("too fine")
	lines := strings.Split(strings.TrimSpace(buf.String()), "\n")
	for i, want := range []map[string]string{
		{"level": "ERROR", "msg": "failed to load", "error": "no such file"},
		{"level": "INFO", "msg": "trying", "host": "r.example"},
	} {
		if i >= len(lines) {
			t.Fatalf("%d lines: %q", len(lines), lines)
		}
		var got map[string]any
		if err := json.Unmarshal([]byte(lines[i]), &got); err != nil {
			t.Fatalf("line %q: %v", lines[i], err)
		}
		for k, v := range want {
			if got[k] != v {
				t.Errorf("line %q: %s is %v, want %q", lines[i], k, got[k], v)
			}
		}
	}
	if len(lines) != 2 {
		t.Errorf("%d lines: %q", len(lines), lines)
	}
}

func ExampleWith() {
	ctx := With(context.Background(), slog.New(slog.DiscardHandler))
	log.G(ctx).Warn("not on standard error")
	// Output:
}
