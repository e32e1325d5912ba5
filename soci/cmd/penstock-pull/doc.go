// Command penstock-pull pulls a container image and leaves its root file system
// in a directory.
//
//	penstock-pull --root DIR [flags] REFERENCE
//	penstock-pull --layers DIR [flags] REFERENCE
//	penstock-pull --config - [flags] REFERENCE
//	penstock-pull prefetch [--containerd SOCKET] [--rate SIZE] [flags] REFERENCE...
//	penstock-pull ztoc --out FILE [--indexes DIR] [--version 1|2] BLOB
//
// With --root DIR all layers are applied to one tree; with --layers DIR each
// layer gets a directory of its own inside DIR, as overlayfs takes it. DIR must
// be new or empty. It appears when every digest has been verified, and does not
// appear if the pull fails. The finished layers of a failed pull wait in
// .NAME.penstock next to DIR for the next pull to DIR.
//
// With --config FILE the image's configuration (environment, entry point, user)
// is saved as the registry has it, or printed for "-". Without --root and
// --layers, only the configuration is pulled.
//
// The prefetch command pulls images into containerd ahead of time, through
// penstock-snapshotter. A rate holds until a container needs the same image.
//
// The ztoc command reads a gzip layer from a file and writes its index in
// SOCI's form.
//
// penstock-pull logs in with the credentials that docker login or podman login
// saved. It talks plain HTTP to registries on loopback addresses, and to others
// only with --plain-http.
//
// Progress goes to standard error, as a bar on a terminal and as occasional
// lines elsewhere. The result goes to standard output, with --json as one
// object.
//
// The exit code is 0 if the image was pulled, 1 if it was not, and 2 if the
// command line is wrong. An interrupt removes the unfinished files and keeps
// finished layers (see --keep-failed); a second one ends the program at once.
package main
