package csi

import (
	"context"

	spec "github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/penstock/penstock/internal/version"
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

// Version returns the version of Penstock that this program was built from: a module version, "devel-COMMIT" for a
// build from a checkout, or "devel" if the build recorded neither.
func Version() string { return version.String() }
