package csi

import (
	"context"
	"runtime/debug"

	spec "github.com/container-storage-interface/spec/lib/go/csi"
)

// identity is the identity service.
type identity struct {
	spec.UnimplementedIdentityServer
	name string
}

// GetPluginInfo names the driver.
func (i *identity) GetPluginInfo(context.Context, *spec.GetPluginInfoRequest) (*spec.GetPluginInfoResponse, error) {
	return &spec.GetPluginInfoResponse{Name: i.name, VendorVersion: Version()}, nil
}

// GetPluginCapabilities declares none: there is no controller service, and every node reaches every bucket.
func (i *identity) GetPluginCapabilities(context.Context, *spec.GetPluginCapabilitiesRequest) (*spec.GetPluginCapabilitiesResponse, error) {
	return &spec.GetPluginCapabilitiesResponse{}, nil
}

// Probe is always healthy: a driver that answers works, and a bucket that does not is that volume's failure.
func (i *identity) Probe(context.Context, *spec.ProbeRequest) (*spec.ProbeResponse, error) {
	return &spec.ProbeResponse{}, nil
}

// Version returns the version that this program was built from, "devel" if that is not recorded.
func Version() string {
	const module = "github.com/penstock/penstock"
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "devel"
	}
	found := ""
	if info.Main.Path == module {
		found = info.Main.Version
	}
	for _, dep := range info.Deps {
		if dep.Path == module {
			found = dep.Version
		}
	}
	if found == "" || found == "(devel)" {
		return "devel"
	}
	return found
}
