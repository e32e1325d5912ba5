// Package clitest checks the command lines of programs that use internal/cli.
//
//	clitest.Golden(t, "help-get.txt", out.String())
//
// The golden files of help are also what internal/lint compares the
// documentation with. PENSTOCK_REWRITE=1 rewrites them.
package clitest

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	flagLine = regexp.MustCompile(`(?m)^  (?:-[a-z], )?--([a-z0-9-]+)(.*)$`)
	secret   = regexp.MustCompile(`secret|password|passwd|token|credential|access-key|(^|-)key($|-id$)`)
)

// Golden compares the help of a command with testdata/name, and checks what
// holds for each help: lines of at most 80 bytes, and no flag that takes a
// secret.
func Golden(t *testing.T, name, text string) {
	t.Helper()
	for line := range strings.Lines(text) {
		if len(line) > 81 { // with the line break
			t.Errorf("%s: a line of %d bytes: %s", name, len(line)-1, line)
		}
	}
	for _, f := range Flags(text) {
		if secret.MatchString(f) {
			t.Errorf("%s: --%s takes a secret, which every process could read", name, f)
		}
	}
	file := filepath.Join("testdata", name)
	if os.Getenv("PENSTOCK_REWRITE") != "" {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("%v: PENSTOCK_REWRITE=1 writes it", err)
	}
	if text != string(want) {
		t.Errorf("the help differs from %s (PENSTOCK_REWRITE=1 rewrites it):\n%s", file, text)
	}
}

// Flags returns the names of the flags in a help, without dashes.
func Flags(text string) []string {
	var names []string
	for _, m := range flagLine.FindAllStringSubmatch(text, -1) {
		names = append(names, m[1])
	}
	return names
}
