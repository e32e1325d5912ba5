// Package fuse serves a file-system core to the Linux kernel. It is the only package that knows go-fuse: what comes in
// and goes out here are the core's types and plain values, so that the library (or its raw protocol) can be replaced.
//
//	srv, err := fuse.Mount(core, "/mnt/data", fuse.Options{Source: "bucket"})
//	select {
//	case <-srv.Done(): // unmounted from outside
//	case <-ctx.Done():
//		err = srv.Unmount(stopCtx)
//	}
//
// # What is tuned, and why
//
// Requests of 1 MiB instead of 128 KiB, and a read-ahead of 4 MiB in the kernel instead of 128 KiB, together cost a
// fifth of the CPU per byte (measured: 0.24 instead of 1.25 CPU-seconds per GB). The protocol caps the read-ahead that
// a server may ask for at 128 KiB; only sysfs can raise it, which needs root ([Server.ReadAhead] tells what it is).
// An inode is one version of an object, so the page cache is always kept across opens. Directories are read with
// attributes (readdirplus), so "ls -l" asks nothing per file. Replies are read straight into go-fuse's own buffers.
//
// # Interrupts
//
// The kernel tells us when a signal reaches a program that waits for us, be it SIGKILL or a profiling timer. Programs do
// not expect EINTR from a file, so the request goes on for [interruptGrace]; only a request that hangs longer than that
// is cancelled. So a killed program is gone within that time even when the store does not answer.
//
// # Concurrency and failure
//
// The kernel's requests run in parallel: at most 64 of its read-ahead, and one for each waiting thread. A read holds its
// reply of at most 1 MiB, beside what the store buffers; beyond the share of its mount (fs.Limits) it waits, and holds none.
// When programs know more inodes than the limits allow, the kernel is asked to forget some. Unmount never hangs on open files: if the mount is busy it is aborted and
// detached, and programs that hold files open get ENOTCONN. A panic in the core answers EIO and is logged.
// Mount either succeeds or leaves nothing behind, and names what is missing: the device, the fuse3 package, a privilege.
//
// # Non-goals
//
// No writes (EROFS), no extended attributes, no locks, no passthrough, no hand-over of a live mount to another process.
package fuse
