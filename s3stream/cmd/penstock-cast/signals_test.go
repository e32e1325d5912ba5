//go:build unix

package main

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/penstock/penstock/internal/testorigin"
)

// TestSignals wants no unfinished file after SIGHUP, which a closed terminal
// sends, nor after a second signal during the clean-up.
func TestSignals(t *testing.T) {
	for _, signals := range [][]os.Signal{
		{syscall.SIGHUP},
		{syscall.SIGTERM, syscall.SIGTERM},
		{syscall.SIGINT, syscall.SIGHUP},
	} {
		g := newGate(10)
		o, env := startOrigin(t, testorigin.Options{Tap: g.tap})
		manyObjects(t, o)
		dir := t.TempDir()
		get := startProcess(t, env, "get", "-q", "--memory", "4MiB", "-o", dir, "s3://b/m/")
		<-g.reached
		for _, s := range signals {
			if err := get.Process.Signal(s); err != nil && !strings.Contains(err.Error(), "finished") {
				t.Fatal(err)
			}
		}
		if code := get.wait(); code != 1 || get.stderr.String() != "penstock-cast get: interrupted\n" {
			t.Errorf("%v: exits %d: %q", signals, code, get.stderr.String())
		}
		close(g.open)
		if parts, err := filepath.Glob(filepath.Join(dir, ".penstock-*")); err != nil || len(parts) > 0 {
			t.Errorf("%v: left %q, %v", signals, parts, err)
		}
	}
}

// TestNextRunRemovesLeftovers wants the next run into the same directory to
// remove the unfinished files that SIGKILL left.
func TestNextRunRemovesLeftovers(t *testing.T) {
	g := newGate(1) // the request of the only object has no answer yet
	o, env := startOrigin(t, testorigin.Options{Tap: g.tap})
	_, n := manyObjects(t, o)
	dir := t.TempDir()
	get := startProcess(t, env, "get", "-q", "--memory", "4MiB", "-o", dir, "s3://b/m/00")
	<-g.reached
	if err := get.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	get.wait()
	close(g.open)
	if parts, err := filepath.Glob(filepath.Join(dir, ".penstock-*.part")); err != nil || len(parts) != 1 {
		t.Fatalf("the killed process left %q, %v: the test needs one", parts, err)
	}
	again := startProcess(t, env, "get", "-q", "--memory", "4MiB", "s3://b/m/", "-o", dir) // flags may follow the URIs
	if code := again.wait(); code != 0 {
		t.Fatalf("exits %d: %s", code, &again.stderr)
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != n {
		t.Errorf("%d files, want %d: %v", len(files), n, err)
	}
}
