package dnsplugin

import (
	"runtime"
	"runtime/debug"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/penstock/penstock/dnsplugin/internal/meters"
)

// modulePath is the module that this package belongs to.
const modulePath = "github.com/penstock/penstock"

// unrecorded stands for a value that the build does not record.
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

// buildOf extracts the build from the linker's record. The commit is known only
// if the program belongs to the same module.
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

// publishBuild registers a metric that describes the build, like the one that
// CoreDNS has for itself.
func publishBuild(reg prometheus.Registerer) error {
	var v *prometheus.GaugeVec
	if err := (meters.Registrar{Into: reg, Flush: proc.listeners.Flush}).Gauge(&v, "penstock", "build_info", "Always 1; the labels hold the version and commit that the cache was built from.", []string{"version", "commit", "goversion"}); err != nil {
		return err
	}
	version, commit := build()
	v.WithLabelValues(version, commit, runtime.Version()).Set(1)
	return nil
}
