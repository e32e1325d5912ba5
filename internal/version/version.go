package version

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
)

const module = "github.com/penstock/penstock"

// Unknown replaces a version or commit that the build did not record.
const Unknown = "devel"

// Build identifies the source of a program.
type Build struct {
	Version string // module version such as v0.3.0, or Unknown
	Commit  string // 12 hex digits, with "+dirty" after uncommitted changes, or Unknown
	Go      string // Go release, such as go1.26.8
}

// Current returns the build of this program.
var Current = sync.OnceValue(func() Build {
	info, _ := debug.ReadBuildInfo()
	return fromInfo(info)
})

// String returns the version, or the commit if the version is unknown.
func String() string {
	b := Current()
	if b.Version == Unknown && b.Commit != Unknown {
		return Unknown + "-" + b.Commit
	}
	return b.Version
}

// Line returns the line that a program prints for --version.
func Line(program string) string {
	b := Current()
	return fmt.Sprintf("%s %s (commit %s, %s, %s/%s)", program, b.Version, b.Commit, b.Go, runtime.GOOS, runtime.GOARCH)
}

// Asked reports whether the arguments of a program ask for its version, which they
// do if the first one is version, -version or --version.
func Asked(args []string) bool {
	return len(args) > 0 && slices.Contains([]string{"version", "-version", "--version"}, args[0])
}

// fromInfo reads the build information. Our module is the main module of our own
// programs, and a dependency of programs that import it. The recorded commit
// belongs to the main module.
func fromInfo(info *debug.BuildInfo) Build {
	b := Build{Version: Unknown, Commit: Unknown, Go: runtime.Version()}
	if info == nil {
		return b
	}
	found := ""
	if info.Main.Path == module {
		found = info.Main.Version
		b.Commit = commit(info.Settings)
	}
	for _, dep := range info.Deps {
		if dep.Path == module {
			found = dep.Version
		}
	}
	if found != "" && found != "(devel)" {
		b.Version = found
	}
	return b
}

func commit(settings []debug.BuildSetting) string {
	revision, dirty := Unknown, ""
	for _, s := range settings {
		switch {
		case s.Key == "vcs.revision" && s.Value != "":
			revision = s.Value[:min(len(s.Value), 12)]
		case s.Key == "vcs.modified" && s.Value == "true":
			dirty = "+dirty"
		}
	}
	if revision == Unknown {
		return Unknown
	}
	return revision + dirty
}
