//go:build linux

// Command penstock-snapshotter is a snapshotter for containerd that fetches and
// unpacks the layers of images itself, all at once, in one pass.
//
//	penstock-snapshotter [--root DIR] [--address SOCKET] [flags]
//	penstock-snapshotter capabilities
//
// containerd knows it by this in its configuration (version 3):
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
// (soci/deploy/containerd.toml is the whole of it. "penstock-snapshotter capabilities" prints
// what belongs into capabilities on this kernel.)
// Then "ctr images pull --snapshotter penstock REF" goes through it, and so does
// Kubernetes when it is the snapshotter of the CRI plugin. See docs/soci.md.
//
// It logs to standard error and runs in the foreground. SIGINT or SIGTERM ends all
// pulls; layers that are ready are kept for the next run. The exit code is 0 after a
// signal, 1 when it failed, 2 when the command line is wrong.
package main
