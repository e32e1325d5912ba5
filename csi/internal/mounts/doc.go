// Package mounts reads the kernel's mount table and makes, finds and removes mounts without ever touching the file
// systems inside them.
//
//	table, err := mounts.Read()
//	m, ok := table.At("/var/lib/kubelet/pods/x/mount") // the topmost mount there
//	target, err := mounts.OpenTarget("/var/lib/kubelet", path)
//	err = target.Bind(source)
//	err = mounts.Remove("/var/lib/kubelet", path, func(m mounts.Mount) error { return mayDetach(m) })
//
// # Why the table
//
// A stat of a dead FUSE mount is ENOTCONN, of a hung one it never returns, and a process that has a file of its own
// mount open can deadlock with itself when it starts a child (closing the file waits for the server that the child
// should become). So nothing here stats or opens anything inside a mount: what is mounted where is read from
// /proc/self/mountinfo, and paths are opened with O_PATH, which sends a file system no request. The one exception is
// [Dead], which asks a mount of another process whether its server still lives, with a time limit.
//
// # Vocabulary
//
// A target is the directory that kubelet names for a volume. The base is the directory that all targets must be in. A
// dead mount is one whose server ended without unmounting. Nothing is detached unless the caller agrees to it.
//
// # Concurrency and failure
//
// Functions are safe in parallel on different targets; calls for one target are the caller's to order. Errors name the
// path and wrap the errno. Removing what is not there is no error.
//
// # Non-goals
//
// No mount propagation settings, no mount namespaces other than the process's own.
package mounts
