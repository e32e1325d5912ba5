package dnsplugin

import (
	"runtime"
	"runtime/debug"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/penstock/penstock/dnsplugin/internal/meters"
)

// modulePath is where this package's source is found.
const modulePath = "github.com/penstock/penstock"

// unrecorded stands for what a build does not tell.
const unrecorded = "devel"

// build is the version and the commit of this package in the running program.
var build = sync.OnceValues(func() (version, commit string) {
	info, _ := debug.ReadBuildInfo()
	return buildOf(info)
})

// Version names the source that this package was built from: its version as a
// dependency, or the commit of a program that is built in its own tree.
func Version() string {
	version, commit := build()
	if version == unrecorded && commit != "" {
		return unrecorded + "-" + commit
	}
	return version
}

// buildOf reads what the linker has recorded. The commit is known where the
// program belongs to the same module only.
func buildOf(info *debug.BuildInfo) (version, commit string) {
	version = unrecorded
	if info == nil {
		return version, ""
	}
	set := func(m *debug.Module) {
		if m.Replace != nil {
			m = m.Replace
		}
		if m.Version != "" && m.Version != "(devel)" {
			version = m.Version
		}
	}
	if info.Main.Path == modulePath {
		set(&info.Main)
		dirty := ""
		for _, s := range info.Settings {
			switch {
			case s.Key == "vcs.revision":
				commit = s.Value[:min(len(s.Value), 12)]
			case s.Key == "vcs.modified" && s.Value == "true":
				dirty = "+dirty"
			}
		}
		if commit != "" {
			commit += dirty
		}
	}
	for _, m := range info.Deps {
		if m.Path == modulePath {
			set(m)
		}
	}
	return version, commit
}

// publishBuild makes the build a series of reg, beside that of CoreDNS.
func publishBuild(reg prometheus.Registerer) error {
	var v *prometheus.GaugeVec
	if err := (meters.Registrar{Into: reg, Flush: published.flush}).Gauge(&v, "penstock", "build_info", "Always 1; the labels say what the cache was built from.", []string{"version", "commit", "goversion"}); err != nil {
		return err
	}
	version, commit := build()
	v.WithLabelValues(version, commit, runtime.Version()).Set(1)
	return nil
}
