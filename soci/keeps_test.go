package soci

import (
	"errors"
	"fmt"
	"syscall"
	"testing"
)

// TestKeeps: which failures leave what was finished for the next pull.
func TestKeeps(t *testing.T) {
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
		if got := keeps(tc.err, tc.keepFailed); got != tc.want {
			t.Errorf("keeps(%v, %v) = %v", tc.err, tc.keepFailed, got)
		}
	}
}
