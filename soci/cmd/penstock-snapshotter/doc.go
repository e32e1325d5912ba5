//go:build linux

// Command penstock-snapshotter is a snapshotter for containerd that fetches and
// unpacks the layers of images itself, all at once, in one pass.
//
//	penstock-snapshotter [--root DIR] [--address SOCKET] [flags]
//	penstock-snapshotter capabilities
//
// containerd's configuration (version 3) names it:
//
//	[proxy_plugins.penstock]
//	  type = "snapshot"
//	  address = "/run/penstock/snapshotter.sock"
//	  capabilities = ["remap-ids"]
//	  [proxy_plugins.penstock.exports]
//	    enable_remote_snapshot_annotations = "true"
//
//	[[plugins."io.containerd.transfer.v1.local".unpack_config]]
//	  platform = "linux"
//	  snapshotter = "penstock"
//
// soci/deploy/containerd.toml is the complete file, and "penstock-snapshotter
// capabilities" prints the capabilities for this kernel. With this configuration,
// "ctr images pull --snapshotter penstock REF" pulls through the daemon, and so
// does Kubernetes if penstock is the snapshotter of the CRI plugin. See
// docs/soci.md.
//
// The daemon logs to standard error and runs in the foreground. SIGINT or SIGTERM
// ends all pulls; finished layers are kept for the next run. The exit code is 0
// after a signal, 1 after a failure, and 2 if the command line is wrong.
package main
