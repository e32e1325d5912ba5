package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestRunRefusesBadFlags(t *testing.T) {
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"-bucket", "weights"}, "is not NAME=FOLDER"},
		{[]string{"-faults", "GetObject => explode"}, "is unknown"},
		{[]string{"-registry-auth", "magic"}, "use none, token or basic"},
		{[]string{"-addr", "127.0.0.1:0", "-bucket", "w=/no/such/folder"}, "no such file"},
		{[]string{"-addr", "127.0.0.1:0", "-layout", "w=/no/such/folder"}, "no such file"},
		{[]string{"-addr", "127.0.0.1:0", "-root", "/no/such/folder"}, "no such file"},
	} {
		if err := run(t.Context(), tt.args); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%v: error %v, want one with %q", tt.args, err, tt.want)
		}
	}
}

func TestRunServesUntilCancelled(t *testing.T) {
	root := t.TempDir()
	if err := os.MkdirAll(filepath.Join(root, "bucket"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "bucket", "key"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // it starts, loads, receives the signal and ends
	if err := run(ctx, []string{"-addr", "127.0.0.1:0", "-root", root}); err != nil {
		t.Error(err)
	}
}
