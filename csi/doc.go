// Package csi shows buckets of S3 as read-only file systems: as a Container Storage Interface driver for Kubernetes
// nodes, as a FUSE mount by itself, and as an io/fs.FS without the kernel. All three are the same file-system core over
// the same range engine.
//
//	d, err := csi.New(csi.Options{Endpoint: "unix:///csi/csi.sock", NodeID: "node-1"})
//	err = d.Run(ctx) // serves until ctx ends, then unmounts everything
//
//	m, err := csi.Mount(ctx, csi.MountOptions{BucketOptions: csi.BucketOptions{Bucket: "data"}, Dir: "/mnt/data"})
//	defer m.Unmount(ctx)
//
//	b, err := csi.OpenBucket(ctx, csi.BucketOptions{Bucket: "data", Prefix: "train"})
//	text, err := fs.ReadFile(b.FS(ctx), "readme.txt")
//
// # Vocabulary
//
// A bucket is what is shown, from its root or from a prefix on. A [Store] is where it comes from: S3 unless the caller
// brings its own. A volume is a bucket as Kubernetes names it: an id, attributes, mount options, secrets. A target is the
// directory where a pod expects a volume. Volumes that agree in everything, credentials included, share one mount, and with
// it one page cache; each target is a bind mount of it. The source of a mount in the mount table names the driver and its run:
// a driver detaches what is its own, and what is provably dead.
//
// # What a reader sees
//
// Directories are the parts of keys between slashes; a directory hides a file of its name; keys that no file system can
// name are not shown. What is known of a name, also that it is not there, is reused for a second, though
// an open always asks (BucketOptions.MetadataTTL changes both). An open file is one
// version of its object, pinned by its ETag: when the object is replaced, reads of the old version fail with ESTALE
// ([ErrChanged]), and never mix bytes of two versions.
//
// # Concurrency
//
// Everything may be used from several goroutines. Who opens closes: [Driver.Run], [Bucket.Close] and
// [Mounted.Unmount] return after all they started has ended. A process must not start a program from a
// mount of its own (the runtime stands still until the kernel has read it, and nobody serves the read), and should not read
// through one while it starts children: use [Bucket.FS].
//
// # Failure
//
// Opening a bucket asks for it once, so a wrong name, a prefix without keys, wrong credentials or a dead endpoint fail here and
// not in a reader.
// Errors match io/fs.ErrNotExist, io/fs.ErrPermission and [ErrChanged]; through the kernel they are ENOENT, EACCES,
// ESTALE, ENFILE for an open beyond the bound of open files, and EIO for the rest. A store that does not answer makes reads
// fail after S3Options.Outage, and never keeps a mount from being removed. The driver answers with the codes of the CSI specification. No error, log line or process argument holds
// a secret.
//
// # Non-goals
//
// Nothing is written: no create, rename, delete, and so no dynamic provisioning (the driver has no controller service). No
// disk cache. A mount does not outlive its process.
package csi
