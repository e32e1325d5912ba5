// Package untar turns one layer archive into one directory, and one directory
// after the other into a flattened root file system, without ever touching
// anything outside.
//
//	pool := untar.NewPool(4, 16<<20)
//	defer pool.Close()
//	meter := untar.NewMemory(-1, nil).Meter(untar.DefaultLimits())
//	base, err := untar.Extract(ctx, r0, dir0, untar.Options{Pool: pool, Meter: meter})
//	upper, err := untar.Extract(ctx, r1, dir1, untar.Options{Pool: pool, Meter: meter})
//	err = untar.Merge(ctx, dir0, upper) // dir0 is now both layers
//
// # Vocabulary
//
// A layer is extracted into an empty directory of its own, so layers may be
// extracted in any order and at the same time. What a layer says about the
// layers below it (whiteouts, opaque directories, hard links to lower files,
// parents it does not describe) is kept in [Layer]; [Merge] applies it to a
// tree, [Layer.Overlay] writes it in the form that overlayfs reads. After that
// the directory alone says everything that the layers above need: [OpenLayer] takes
// up one that an earlier process extracted. [Layer.Usage] is what a layer takes of
// the disk, counted while it was written.
//
// A logical path is the cleaned name of an entry. A physical path is where it
// lies: the logical path with every symbolic link on the way resolved inside
// the root, as chroot would. Only physical paths reach the kernel.
//
// # Confinement
//
// os.Root refuses a path that crosses an absolute symbolic link. Real images
// need exactly that (var/run -> /run in one layer, var/run/x in the next), so
// links are resolved here, component by component, with the root of the layer
// as "/". The kernel then opens the resolved path with openat2 and
// RESOLVE_BENEATH|RESOLVE_NO_SYMLINKS (or, without openat2, by a walk with
// O_NOFOLLOW): if the bookkeeping were ever wrong the call fails, it can not
// leave the root. The last component is created with O_EXCL|O_NOFOLLOW or an
// *at call relative to its parent's descriptor.
//
// # Reading
//
// The reader of archives is ours: it gives the content where it lies in the blocks
// of a [BlockReader], the maps of sparse files instead of their zeros, and makes no
// garbage. It takes version 7, ustar, pax, GNU and star; whatever it accepts it
// reads as the standard library does, but for global headers, which it applies as
// GNU tar does.
//
// # Concurrency
//
// One goroutine parses; the writers of the shared [Pool] create files, which they are
// handed in batches by directory: names are made in the order of the archive, one
// writer at a time, since several in one directory only wait for its lock; idle
// writers fill and close the files. The pieces of a large file are written in their
// own order beside that. The parser knows every directory and every name that a writer
// still works on, and waits for a name before it depends on it (duplicate, hard
// link, parent), so the outcome is that of a serial run.
//
// # Memory
//
// What has to be remembered of an archive (directories, whiteouts, links whose target is
// not there, maps of sparse files) is kept compactly and charged to a [Memory], which all
// images share and which fails the one that takes more than its share. [Layer.Release]
// gives it back. Time is linear in the archive: what is looked up has an index, and
// directories are listed in pieces. Every loop ends when the context does.
//
// # Going on
//
// With [Checkpoints] an extraction says between entries what it would take to go on from
// there, and another process can: it removes what came later and reads on.
//
// # Failures
//
// Every error is an [*Error] naming the entry; a full file system also says how many
// bytes and inodes are left. Nothing is cleaned up: the caller owns the directory
// and removes it. A panic on what an archive says is such an error too.
//
// # Without privileges
//
// What could not be set (owners, device nodes, some attributes) is no error but a
// [Note]; setuid and setgid bits go with the owner. Root of a user namespace sets
// the owners that are mapped. Options.KeepOwners keeps the others in an attribute.
//
// # Not done here
//
// Decompression, digests, expansion ratios (the caller sees the compressed side),
// shifting ids, and syncing to disk.
package untar
