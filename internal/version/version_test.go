package version

import (
	"runtime/debug"
	"strings"
	"testing"
)

func TestFromInfo(t *testing.T) {
	t.Parallel()
	vcs := []debug.BuildSetting{{Key: "vcs.revision", Value: "0123456789abcdef0123"}, {Key: "vcs.modified", Value: "true"}}
	for _, c := range []struct {
		name            string
		info            *debug.BuildInfo
		version, commit string
	}{
		{"no build information", nil, Unknown, Unknown},
		{"go build in a checkout", &debug.BuildInfo{Main: debug.Module{Path: module, Version: "(devel)"}, Settings: vcs}, Unknown, "0123456789ab+dirty"},
		{"go install of a release", &debug.BuildInfo{Main: debug.Module{Path: module, Version: "v1.2.3"}}, "v1.2.3", Unknown},
		{
			"a program that imports the library, with a commit of its own",
			&debug.BuildInfo{Main: debug.Module{Path: "example.org/launcher"}, Deps: []*debug.Module{{Path: module, Version: "v0.9.0"}}, Settings: vcs},
			"v0.9.0", Unknown,
		},
	} {
		b := fromInfo(c.info)
		if b.Version != c.version || b.Commit != c.commit {
			t.Errorf("%s: %s %s, want %s %s", c.name, b.Version, b.Commit, c.version, c.commit)
		}
	}
}

func TestAsked(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"version"}, {"--version"}, {"-version", "-json"}} {
		if !Asked(args) {
			t.Errorf("%q does not ask for the version", args)
		}
	}
	for _, args := range [][]string{nil, {"--root", "version"}, {"versions"}} {
		if Asked(args) {
			t.Errorf("%q asks for the version", args)
		}
	}
}

func TestLine(t *testing.T) {
	t.Parallel()
	if line := Line("penstock-pull"); !strings.HasPrefix(line, "penstock-pull ") || strings.Contains(line, "\n") {
		t.Errorf("%q is not one line that begins with the program's name", line)
	}
}
