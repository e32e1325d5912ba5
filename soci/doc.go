// Package soci pulls a container image and leaves its root file system in a
// directory: all layers by parallel ranged requests, each byte received once,
// hashed, inflated and written in one pass, with no compressed copy on disk.
//
//	p, err := soci.New(soci.Options{})
//	if err != nil {
//		return err
//	}
//	defer p.Close()
//	res, err := p.Pull(ctx, "docker.io/library/alpine:3.20", "/var/lib/rootfs")
//
// # Vocabulary
//
// A blob is a layer as the registry stores it, named by the digest of its
// compressed bytes; its DiffID is the digest of the tar inside. A layer is
// inflated into a directory of its own; the directories are then moved
// together, lowest first, and whiteouts applied: that is the flattened tree. A
// part is one ranged request.
//
// # What is promised
//
// Nothing is visible at the target before both digests of every layer and all
// sizes of the manifest have been verified. On failure nothing is left. A process that
// is killed leaves its finished layers, and checkpoints of those in work, hidden beside
// the target, for the next pull of that target (see docs/soci.md for what a power cut
// means). The target must not
// exist, or be an empty directory; its parent must exist. No entry of
// an archive can touch anything outside, whatever links it makes first.
//
// # Concurrency
//
// A Puller may run any number of pulls at the same time: they share its memory,
// connections and tokens, and what two of them want of one repository at the same time is fetched once.
// Close it when they have ended; it ends its goroutines.
//
// # Failures
//
// Every failed pull returns an [*Error], which matches one of the sentinels where
// a caller could do something about it. The engine retries what may pass: broken
// and stalled bodies go on at the byte where they ended, 429 and 503 slow the
// whole host down, a presigned URL that ran out is asked for again, a token is
// refreshed once for all, and what one host of hosts.toml can not bring comes from
// the next. A panic on the bytes of an image is the error of its layer ([ErrInternal]);
// other pulls go on. What a normal user can not set (owners, devices) is not
// an error but a warning of the [Result].
//
// # Not done here
//
// Running containers, pushing, verifying signatures, and encrypted layers.
package soci
