// Command csi measures reads through a mounted bucket: penstock-csi against
// s3fs and rclone mount.
//
//	make bench AREA=csi          # as root, or with fusermount3
//	make bench AREA=csi ARGS=-quick
//
// Each run mounts afresh, so nothing is in the kernel's page cache, reads in a
// process of its own, compares every byte with the file behind the object, and
// unmounts. CPU is the sum of the reader and of the mount; the origin's counters
// say how many bytes the mount fetched for the bytes that were read.
//
// The first argument read selects the role of the reader.
package main
