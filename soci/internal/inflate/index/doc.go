// Package index knows where the decoding of a layer can begin: at places with the
// history that is needed there, noted while it was decoded once.
//
//	rec := index.NewRecorder(0)
//	... // decode with inflate.Options.Record
//	x, err := rec.Index(index.Blob{Digest: digest, DiffID: diffID, Size: size, Out: out})
//	err = x.Save(file)
//	x, err = index.Load(file)
//	... // decode with inflate.Options.Index, on all cores
//
// # Vocabulary
//
// A point is a place in the compressed stream where a gzip member or a DEFLATE block
// begins. The window of a point are the last 32 KiB of output before it, of which only
// the bytes are kept that what follows refers to. A span is what lies between points.
//
// # Contract
//
// An index is a hint. Package inflate checks each point and each byte of a window that
// is used against what it has decoded itself before it hands out a byte behind it, so
// that a wrong or hostile index costs time only. Load checks a checksum and limits what
// is held; an Index is not modified and may be used by any number of goroutines, a
// Recorder by one.
//
// # Format
//
// Eight bytes of magic with the version in the last one; 4 bytes, little endian, the
// length of the body; the body, a zstd frame; the SHA-256 of all before it. In the
// body numbers are unsigned varints: the digest of the blob and its DiffID (length and
// text each), the sizes of both, the number of points; for each point its kind, the
// distances in bits and bytes of output from the one before it, and for a member the
// length of its header, for a block that of its history and the runs of bytes that
// are kept of it (how many runs; for each how many bytes are left out before it, and
// its length); at the end the bytes of all runs.
//
// # Failures
//
// [ErrFormat]: the bytes are no index of this version.
//
// # Not done here
//
// Decoding, which package inflate does, and SOCI's own format: package ztoc.
package index
