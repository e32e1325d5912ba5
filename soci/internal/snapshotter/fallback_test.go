package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/penstock/penstock/soci"
)

// dialTimeout returns the error of a dial that timed out. It matches
// context.DeadlineExceeded although no context has ended.
func dialTimeout(t *testing.T) error {
	t.Helper()
	_, err := (&net.Dialer{Deadline: time.Unix(1, 0)}).DialContext(t.Context(), "tcp", "127.0.0.1:1")
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("%v is not a time-out", err)
	}
	return err
}

// TestFallback checks the decision whether containerd may fetch a layer, given
// our error and whether the work was cancelled.
func TestFallback(t *testing.T) {
	gone, cancel := context.WithCancelCause(t.Context())
	cancel(errAbandoned)
	late := dialTimeout(t)
	of := func(op string, errs ...error) error { return &soci.Error{Op: op, Err: errors.Join(errs...)} }
	for _, tt := range []struct {
		name   string
		err    error
		reason string // "" for an error
	}{
		{"success", nil, ""},
		{"a dial that timed out", of("resolve", late), "unreachable"},
		{"a dial that timed out, of work that was ended", endedBy(gone, of("resolve", late)), ""},
		{"a dial that timed out, of work that goes on", endedBy(t.Context(), of("resolve", late)), "unreachable"},
		{"a dial that timed out in a layer", of("layer", late, soci.ErrFetch), "fetch"},
		{"the same below another layer", fmt.Errorf("the layer below: %w", of("layer", late, soci.ErrFetch)), "fetch"},
		{"a cancelled layer", endedBy(gone, of("layer", context.Canceled)), ""},
		{"a server without ranges", of("layer", errors.New("server ignored the range"), soci.ErrFetch), "fetch"},
		{"an answer of status 500", of("resolve", soci.ErrFetch), "unreachable"},
		{"no right", of("resolve", soci.ErrDenied), "denied"},
		{"no such layer", of("layer", soci.ErrNotFound), "not_found"},
		{"another kind of image", of("resolve", soci.ErrUnsupported), "unsupported"},
		{"labels", errMismatch, "labels"},
		{"wrong bytes", of("layer", soci.ErrDigest), ""},
		{"wrong bytes of a manifest", of("resolve", soci.ErrDigest), ""},
		{"a bomb", of("layer", soci.ErrLimit), ""},
		{"a path that leads out", of("layer", soci.ErrUnsafe), ""},
		{"damage", of("layer", soci.ErrCorrupt), ""},
		{"a full disk", of("layer", syscall.ENOSPC), ""},
	} {
		if reason, ok := fallback(tt.err); reason != tt.reason || ok != (tt.reason != "") {
			t.Errorf("%s: %q, %v; want %q", tt.name, reason, ok, tt.reason)
		}
	}
}
