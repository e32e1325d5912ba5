// Command penstock-pull pulls a container image and leaves its root file system in
// a directory.
//
//	penstock-pull --root DIR [flags] REFERENCE
//	penstock-pull --layers DIR [flags] REFERENCE
//	penstock-pull --config - [flags] REFERENCE
//	penstock-pull prefetch [--containerd SOCKET] [--rate BYTES] [flags] REFERENCE...
//	penstock-pull ztoc --out FILE [--indexes DIR] [--version 1|2] BLOB
//
// With --root DIR all layers are applied to one tree; with --layers DIR each layer
// gets a directory of its own inside DIR, as overlayfs takes it. DIR must be new or
// empty. It appears when every digest has been verified, and not at all when
// anything fails. What a failed pull has finished waits beside DIR, in .NAME.penstock, for the
// next pull to DIR.
//
// With --config FILE the image's configuration (environment, entry point, user) is saved as the
// registry has it, or printed for "-"; without --root and --layers nothing else is pulled.
//
// With prefetch, images go into containerd instead, ahead of time, through
// penstock-snapshotter; a rate holds until somebody else asks for the same image.
//
// With ztoc, the index of a gzip layer, which lies in a file, is written in SOCI's form.
//
// It logs in with what docker login or podman login left behind. Registries on
// loopback addresses are spoken to in plain HTTP, others only with --plain-http.
//
// Progress goes to standard error: a bar on a terminal, a line now and then
// elsewhere. The result goes to standard output, with --json as one object.
//
// The exit code is 0 when the image is there, 1 when it could not be pulled, 2 when
// the command line is wrong. An interrupt removes what was written, but for finished
// layers (see --keep-failed); a second one does not wait for that.
package main
