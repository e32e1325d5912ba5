package main

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"
)

func TestPrefetchBadInput(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "c.sock")
	tests := []struct {
		args []string
		say  string
	}{
		{nil, "name the images"},
		{[]string{"--no-such", "a"}, "-no-such"},
		{[]string{"Bad Reference"}, `"Bad Reference"`},
		{[]string{"a", "https://b"}, "must not have a scheme"},
		{[]string{"--rate", "fast", "a"}, `"fast"`},
		{[]string{"--rate", "0", "a"}, `"0"`},
		{[]string{"--platform", "a/b/c/d", "a"}, `platform "a/b/c/d"`},
		{[]string{"--status", "unix:///x", "a"}, `"unix:///x"`},
		{[]string{"--hosts-dir", "/no/such", "a"}, `"/no/such"`},
		{[]string{"--containerd", socket, "a"}, "name it with --containerd"},
	}
	for _, tt := range tests {
		var out, errs bytes.Buffer
		code := run(t.Context(), append([]string{"prefetch"}, tt.args...), &out, &errs)
		if code != 2 || out.Len() > 0 || !strings.Contains(errs.String(), tt.say) || strings.Count(errs.String(), "\n") != 1 {
			t.Errorf("%q: exit %d, %q, %q; want 2 and %q on one line", tt.args, code, out.String(), errs.String(), tt.say)
		}
	}
}
