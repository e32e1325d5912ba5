package soci

import (
	"errors"
	"fmt"
	"syscall"
	"testing"
)

// TestKeepsStage lists the failures after which the next pull finds the
// finished layers.
func TestKeepsStage(t *testing.T) {
	full := &Error{Op: "layer", Err: fmt.Errorf("no room: %w", syscall.ENOSPC)}
	for _, tc := range []struct {
		err        error
		keepFailed bool
		want       bool
	}{
		{nil, true, false},
		{errors.New("any"), false, false},
		{errors.New("any"), true, true},
		{full, true, false},
		{fmt.Errorf("quota: %w", syscall.EDQUOT), true, false},
	} {
		if got := keepsStage(tc.err, tc.keepFailed); got != tc.want {
			t.Errorf("keepsStage(%v, %v) = %v", tc.err, tc.keepFailed, got)
		}
	}
}
