// Package soci pulls a container image and leaves its root file system in a
// directory. It fetches all layers by parallel ranged requests. Each byte is
// received once, and is hashed, inflated and written in one pass, without a
// compressed copy on disk.
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
// compressed bytes; its DiffID is the digest of the tar inside. Each layer is
// unpacked into a directory of its own. To flatten an image, these directories
// are merged into one tree, lowest layer first, and whiteouts are applied. A
// part is one ranged request.
//
// # Guarantees
//
// The target becomes visible only after both digests of every layer and all
// sizes of the manifest have been verified. A pull that fails removes
// everything it wrote. A killed process leaves its finished layers, and
// checkpoints of the unfinished ones, in a hidden directory next to the target,
// where the next pull of that target finds them (docs/soci.md covers power
// cuts). The target must be missing or an empty directory; its parent must
// exist. An entry of an archive cannot touch anything outside of the target,
// whatever links precede it.
//
// # Concurrency
//
// A Puller may run any number of pulls at the same time. They share its memory,
// connections and tokens, and a layer that two of them want from one repository
// at the same time is fetched once. Close ends the Puller's goroutines; call it
// when all pulls have ended.
//
// # Failures
//
// Every failed pull returns an [*Error], which matches one of the sentinels if
// a caller could act on it. Transient failures are retried: a broken or stalled
// body resumes at the byte where it ended, 429 and 503 slow down all requests
// to the host, an expired presigned URL is replaced, a token is refreshed once
// for all requests, and a host of hosts.toml that fails is replaced by the next
// one. A panic while decoding an image is the error of its layer
// ([ErrInternal]); other pulls continue. Attributes that an ordinary user
// cannot set (owners, devices) produce a warning in the [Result], not an error.
//
// # Not done here
//
// Running containers, pushing, verifying signatures, and encrypted layers.
package soci
