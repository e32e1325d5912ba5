// Package disk replaces files so that a reader sees the old content or the new
// content, and never a part of either.
//
//	err := disk.Replace(name, disk.Options{Mode: 0o644}, disk.Bytes(data))
//
// [Replace] writes a temporary file in the same directory, syncs it if asked,
// closes it, and renames it to its name. With [SyncAll] it then syncs the
// directory. A failed Replace removes its temporary file and leaves the old
// file in place. A killed process leaves the temporary file, so callers choose
// a name that they find and remove later (Options.Temp).
//
// # Which callers sync
//
// A rename is atomic for running processes, and a killed process loses nothing
// that it has written. Syncing is about power cuts and crashes of the system
// only: without it, a file system may keep the rename and lose the content. A
// sync costs milliseconds on a disk and up to seconds behind other writes, so a
// caller syncs only if no later check would find the loss:
//
//   - soci's image layout (index.json, oci-layout): [NoSync]. Its blobs are not
//     synced either, and readers of a layout verify their digests. After a
//     power cut during a pull, the image is pulled again into a new directory.
//   - soci's layer checkpoints: NoSync. A checkpoint begins with a SHA-256 of
//     its content, which a torn file does not match, and it holds the boot ID. A
//     checkpoint of another boot is ignored.
//   - soci's layer indexes: NoSync. Each index carries its own checksum and
//     only speeds up decoding; the layer is verified without it.
//   - soci's pull journal: NoSync for the rename. With the option Sync the
//     journal syncs each line itself, after the layer that the line names;
//     without it, lines of another boot are ignored.
//   - the snapshotter's layer records: NoSync before the layer's [syncfs], when
//     the record holds the boot ID and is ignored after a reboot; [SyncFile]
//     afterwards. A record without a boot ID claims that its layer is on the
//     disk, so the record itself must not be torn. If a power cut undoes the
//     rename, the earlier record remains, and is ignored.
//   - the DNS cache's warm file: [SyncAll]. It is written for the next start,
//     which may follow a crash of the system.
//
// [syncfs]: https://man7.org/linux/man-pages/man2/syncfs.2.html
package disk
