// Package index records the positions of a layer where decoding can start, with
// the history that is needed there.
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
// A point is a position in the compressed stream where a gzip member or a
// DEFLATE block starts. The window of a point is the last 32 KiB of output
// before it; only the bytes that later output refers to are kept. A span is the
// part of the stream between two points.
//
// # Contract
//
// An index is a hint. Package inflate compares each point, and each byte of a
// window that is used, with its own output before it returns a byte that
// depends on it, so a wrong or hostile index costs only time. Load verifies a
// checksum and bounds the memory. An Index is not modified and may be used by
// any number of goroutines, a Recorder by one.
//
// # Format
//
// A file consists of
//
//   - eight bytes of magic, of which the last is the version
//   - the length of the body in 4 bytes, little endian
//   - the body, a zstd frame
//   - the SHA-256 of all of the above
//
// Numbers in the body are unsigned varints. The body holds the digest of the
// blob and its DiffID (each a length and a text), the sizes of both, and the
// number of points. For each point follow its kind and its distance from the
// previous point, in bits of input and bytes of output; for a member the length
// of its header; for a block the length of its history and the runs of bytes
// that are kept of it (the number of runs, and for each the number of bytes
// left out before it and its length). The bytes of all runs come last.
//
// # Failures
//
// [ErrFormat] if the bytes are not an index of this version.
//
// # Not done here
//
// Decoding, which package inflate does, and the format of SOCI, which package
// ztoc writes.
package index
