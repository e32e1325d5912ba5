// Package untar extracts layer archives into directories, and merges them into
// a root file system, without ever touching anything outside of these
// directories.
//
//	pool := untar.NewPool(4, 16<<20)
//	defer pool.Close()
//	meter := untar.NewMemory(-1, nil).Meter(untar.DefaultLimits())
//	base, err := untar.Extract(ctx, r0, dir0, untar.Options{Pool: pool, Meter: meter})
//	upper, err := untar.Extract(ctx, r1, dir1, untar.Options{Pool: pool, Meter: meter})
//	err = untar.Merge(ctx, dir0, upper) // dir0 now holds both layers
//
// # Vocabulary
//
// Each layer is extracted into an empty directory of its own, so layers may be
// extracted in any order and concurrently. [Layer] records how a layer affects
// the layers below it: whiteouts, opaque directories, hard links to lower
// files, and parents that no entry describes. [Merge] applies this record to a
// tree, and [Layer.Overlay] writes it in the form that overlayfs reads. After
// that the directory alone holds everything that the layers above need, and
// [OpenLayer] opens a directory that an earlier process extracted.
// [Layer.Usage] is the disk space of a layer, counted while it was written.
//
// A logical path is the cleaned name of an entry. A physical path is the
// location of the entry: the logical path with every symbolic link on the way
// resolved inside the root, as chroot would. Only physical paths reach the
// kernel.
//
// # Confinement
//
// os.Root refuses a path that crosses an absolute symbolic link. Real images
// need exactly that (var/run -> /run in one layer, var/run/x in the next), so
// links are resolved here, component by component, with the root of the layer
// as "/". The kernel then opens the resolved path with openat2 and
// RESOLVE_BENEATH|RESOLVE_NO_SYMLINKS (or, without openat2, by a walk with
// O_NOFOLLOW). If our bookkeeping were ever wrong, the call would fail instead
// of leaving the root. The last component is created with O_EXCL|O_NOFOLLOW or
// an *at call relative to the descriptor of its parent.
//
// # Reading
//
// Package tarfile reads the archive. It returns content as slices of the blocks
// of a [BlockReader], so that files are written without a copy, and it returns
// the maps of sparse files instead of their zeros.
//
// # Concurrency
//
// One goroutine parses the archive. The writers of the shared [Pool] create the
// files, in batches by directory. One writer at a time creates the names of a
// directory, in the order of the archive, because several would only wait for
// its lock. Idle writers fill and close the files. The pieces of a large file
// are written in order, concurrently with other files. The parser knows every
// directory and every name that a writer still works on, and waits for such a
// name before it depends on it (duplicate, hard link, parent), so the result is
// the same as with one writer.
//
// # Memory
//
// The directories, whiteouts, links without a target and sparse maps of an
// archive are stored compactly and charged to a [Memory]. All images share it;
// once its limit is reached, an image that holds more than its share fails.
// [Layer.Release] returns the memory. Directories are listed in parts, so their
// size does not matter. Time is linear in the size of the archive, because
// every lookup uses an index. Every loop ends when the context does.
//
// # Resuming
//
// With [Checkpoints] an extraction saves its state between entries. Another
// process can resume from a state: it removes all later files and reads the
// rest of the archive.
//
// # Failures
//
// If the context ends, its cause is returned. Every other error is an [*Error],
// which names the entry if there is one. If the file system is full, it also
// says how many bytes and inodes are free. Extract leaves its files behind
// after an error, because the caller owns the directory and removes it. A panic
// while an archive is read becomes an [*Error], too.
//
// # Without privileges
//
// Owners, device nodes and attributes that the process may not set are reported
// as a [Note] instead of an error; setuid and setgid bits are dropped with the
// owner. Root of a user namespace sets the owners that are mapped.
// Options.KeepOwners stores the others in an attribute.
//
// # Not done here
//
// Decompression, digests, expansion ratios (the caller sees the compressed
// data), shifting of IDs, and syncing to disk.
package untar
