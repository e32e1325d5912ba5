package lint

import (
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// fromLine is an instruction of a Dockerfile that names a base image, unless it names an earlier stage.
var (
	fromLine  = regexp.MustCompile(`(?m)^FROM\s+(?:--\S+\s+)*(\S+)(?:\s+AS\s+(\S+))?`)
	imageLine = regexp.MustCompile(`(?m)^\s*(?:-\s+)?image:\s*"?([^"\s#]+)`)
	newTag    = regexp.MustCompile(`(?m)^\s*newTag:\s*"?([^"\s#]+)`)
	usesLine  = regexp.MustCompile(`(?m)^\s*(?:-\s+)?uses:\s*(\S+)(.*)$`)
	byDigest  = regexp.MustCompile(`@sha256:[0-9a-f]{64}$`)
	byCommit  = regexp.MustCompile(`@[0-9a-f]{40}$`)
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

// TestManifestsNameVersions: no manifest runs whatever a moving tag names today. Images of others are named by digest;
// ours get their tag, or the digest of a release, from the kustomization or the line itself.
func TestManifestsNameVersions(t *testing.T) {
	t.Parallel()
	files := glob(t, "*/deploy/*.yaml", "*/deploy/*/*.yaml", "*/deploy/*/*/*.yaml")
	seen := 0
	for _, f := range files {
		text := read(t, f)
		for _, m := range newTag.FindAllStringSubmatch(text, -1) {
			if m[1] == "latest" {
				t.Errorf("%s: newTag latest moves", f)
			}
		}
		for _, m := range imageLine.FindAllStringSubmatch(text, -1) {
			seen++
			image := m[1]
			ours := strings.Contains(image, "penstock")
			_, tag, tagged := strings.Cut(image[strings.LastIndex(image, "/")+1:], ":")
			switch {
			case byDigest.MatchString(image):
			case !ours:
				t.Errorf("%s: image %s is not pinned by digest", f, image)
			case tagged && tag == "latest", !tagged && strings.Contains(image, "/"):
				t.Errorf("%s: image %s has no version", f, image)
			}
		}
	}
	if seen == 0 {
		t.Error("no manifest names an image: the pattern is wrong")
	}
}

// TestActionsArePinned: the public CI runs actions by commit, with the version in a
// comment.
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
