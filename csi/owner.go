package csi

import (
	"strings"

	"github.com/penstock/penstock/csi/internal/mounts"
)

// owner is who makes mounts: one run of a driver. It stands in the source of each mount, so that every process on the node
// can see in the mount table whose mount it is.
type owner struct {
	driver   string // a valid driver name: no slash and no colon
	instance string // random, for this run
}

// Sources of mounts in the mount table. A mount by hand carries the bucket alone; one of a driver carries its owner too.
//
//	penstock-csi:BUCKET[/PREFIX]
//	penstock-csi/DRIVER/INSTANCE:BUCKET[/PREFIX]
const (
	handPrefix   = "penstock-csi:"
	driverPrefix = "penstock-csi/"
)

// source is what the mount table shows for a mount of this run.
func (o owner) source(bucket string) string {
	return driverPrefix + o.driver + "/" + o.instance + ":" + bucket
}

// parseOwner returns who made a mount; false if no driver of ours did.
func parseOwner(source string) (owner, bool) {
	rest, found := strings.CutPrefix(source, driverPrefix)
	if !found {
		return owner{}, false
	}
	name, _, found := strings.Cut(rest, ":")
	driver, instance, both := strings.Cut(name, "/")
	if !found || !both || driver == "" || instance == "" || strings.Contains(instance, "/") {
		return owner{}, false
	}
	return owner{driver, instance}, true
}

// claim is whose a mount is, seen from one run of a driver.
type claim uint8

const (
	foreign   claim = iota // no mount of this software, or one of a driver with another name
	unnamed                // made by hand, or by a version that did not write its name
	elsewhere              // of a driver with our name, but of another run
	ours                   // of this run
)

// claim tells whose m is. fsType is the type that all mounts of this software have.
func (o owner) claim(m mounts.Mount, fsType string) claim {
	if m.FSType != fsType {
		return foreign
	}
	who, named := parseOwner(m.Source)
	switch {
	case !named:
		return unnamed
	case who.driver != o.driver:
		return foreign
	case who.instance != o.instance:
		return elsewhere
	default:
		return ours
	}
}

// occasion is when a mount is found in the way.
type occasion uint8

const (
	atStart     occasion = iota // the driver starts and looks for what earlier runs left behind
	atPublish                   // a volume is to be shown where the mount is
	atUnpublish                 // kubelet wants the target to be empty
)

// mayDetach decides whether this driver detaches a mount that it finds. dead says that the mount's server has provably
// ended.
//
// What another process may still serve is never touched by itself: not at a start, and not for another volume. Kubelet's
// word that a target is to be emptied counts for the mounts of this driver's name, dead or not, since kubelet knows
// drivers by name alone. What no driver's name is on (a mount by hand, or one of an older version) goes only when it is
// dead, and then anybody may take it away. What is of another driver or of another kind stays on every occasion.
func mayDetach(when occasion, whose claim, dead bool) bool {
	switch whose {
	case ours:
		// At a start there is none. At a publish it is left over from an unpublish that failed half-way.
		return true
	case elsewhere:
		return dead || when == atUnpublish
	case unnamed:
		return dead
	default:
		return false
	}
}
