// Package fs is the file system over a bucket, without the kernel: inodes, lookups, directory streams and file handles
// in the terms of FUSE, none of its types. It reads; every write is EROFS.
//
//	core := fs.New(store, fs.Options{Prefix: "data/"})
//	defer core.Close()
//	node, err := core.Lookup(ctx, fs.Root, "weights.bin")
//	h, err := core.Open(ctx, node.Ino, fs.OpenRead)
//	n, err := core.Read(ctx, h, p, off)
//	core.Release(h); core.Forget(node.Ino, 1)
//
// # Vocabulary
//
// A [Store] is one bucket: stat, list, open. An inode is one version of a file (name and ETag) or a directory. A
// lookup count is how many times the kernel was told of an inode and has not forgotten it. A handle is an open file
// or directory. [Limits] are what all file systems of a process may keep open, known and under way.
//
// # Consistency
//
// An inode stands for one version of an object: its size, time and bytes never change, so a page cache above can be
// kept for ever. When the object is replaced, the next lookup of the name gives another inode. What is known of a name
// is reused for [Options.MetadataTTL]; after that Lookup and Open ask the store again. Unless a TTL
// is asked for, Open asks even within it, so that an open always sees the current version. (That a name is not there is
// remembered by the kernel alone, for the same time.) Opening an inode whose object
// has changed is ESTALE, which makes the kernel look up the name once more: a program sees the new version, not the
// error. A handle reads the version it opened; if that is gone from the store, reads are ESTALE, never other bytes.
//
// # Concurrency
//
// All methods may be called in parallel; calls of ReadDir on one handle run one after the other. Release of a handle
// waits for nothing: the caller (as the kernel does) releases after its last read has returned. Each open directory
// that is being read has one goroutine that lists ahead by at most two batches; ReleaseDir and Close end it.
//
// # Failure
//
// Every error is a [*Error] around what the store said. [Errno] gives the number for the kernel: see errors.go for the table.
// A context that ends gives EINTR and leaves the handle usable.
//
// # Non-goals
//
// No write, no rename, no links, no extended attributes, no negative cache, no data cache (that is the kernel's and
// the store's business).
package fs
