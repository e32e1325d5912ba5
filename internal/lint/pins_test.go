package lint

import (
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// fromLine is an instruction of a Dockerfile that names a base image, unless it names an earlier stage.
var (
	fromLine = regexp.MustCompile(`(?m)^FROM\s+(?:--\S+\s+)*(\S+)(?:\s+AS\s+(\S+))?`)
	usesLine = regexp.MustCompile(`(?m)^\s*(?:-\s+)?uses:\s*(\S+)(.*)$`)
	byDigest = regexp.MustCompile(`@sha256:[0-9a-f]{64}$`)
	byCommit = regexp.MustCompile(`@[0-9a-f]{40}$`)
)

func glob(t *testing.T, patterns ...string) []string {
	t.Helper()
	var found []string
	for _, p := range patterns {
		files, err := filepath.Glob(filepath.Join(root(), p))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			rel, err := filepath.Rel(root(), f)
			if err != nil {
				t.Fatal(err)
			}
			found = append(found, rel)
		}
	}
	return found
}

// TestBaseImagesArePinned: what an image is built from is named by digest, so that a moved tag changes nothing.
func TestBaseImagesArePinned(t *testing.T) {
	t.Parallel()
	files := glob(t, "*/deploy/Dockerfile")
	if len(files) < 3 {
		t.Fatalf("found %q, want the Dockerfiles of three packages", files)
	}
	for _, f := range files {
		stages := map[string]bool{}
		for _, m := range fromLine.FindAllStringSubmatch(read(t, f), -1) {
			if !stages[m[1]] && m[1] != "scratch" && !byDigest.MatchString(m[1]) {
				t.Errorf("%s: base image %s is not pinned by digest", f, m[1])
			}
			stages[m[2]] = true
		}
	}
}

// TestActionsArePinned: the public CI runs actions by commit, with the version beside it.
func TestActionsArePinned(t *testing.T) {
	t.Parallel()
	seen := 0
	for _, f := range glob(t, ".github/workflows/*.yml") {
		for _, m := range usesLine.FindAllStringSubmatch(read(t, f), -1) {
			seen++
			if !byCommit.MatchString(m[1]) || !strings.Contains(m[2], "# v") {
				t.Errorf("%s: action %s is not pinned by commit with its version in a comment", f, m[1])
			}
		}
	}
	if seen == 0 {
		t.Error("no workflow uses an action: the pattern is wrong")
	}
}
