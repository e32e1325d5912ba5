// Package inflate decompresses the blob of a layer into its tar stream.
//
//	r, err := inflate.NewReader(blob, inflate.Options{})
//	defer r.Close()
//	io.Copy(dst, r) // the tar
//
// # Vocabulary
//
// The format is detected from the first bytes (gzip, zstd, or neither, which is
// a plain tar). The media type is ignored, because some builders state a wrong
// one, and the digests protect the content in any case. A member is one of the
// gzip streams of a blob.
//
// # Contract
//
// One goroutine uses a Reader. The Reader reads its source to the end; only
// zero bytes may follow the last member. It verifies the CRC-32 and the length
// of every gzip member, and the checksum of every zstd frame, before it returns
// io.EOF. Errors of the source pass through unchanged; damage is [ErrCorrupt].
//
// With [Options].Workers several goroutines decode a blob, in order and with
// all checks. They end with Close, which must be called. Only the goroutine
// that calls Read reads the source, so Close never waits for the source. How a
// blob is decoded depends on its content:
//
//   - Short gzip members after the first are decoded whole, several at a time.
//   - One long member is decoded by several workers.
//   - The first MiB of a long member, and a shorter first member, are decoded
//     by the goroutine that calls Read.
//   - The frames of a zstd blob with many frames are decoded in runs of whole
//     frames. A long frame, and everything after it, is decoded by the
//     goroutine that calls Read.
//
// Each worker holds at most [WorkerMemory], however far a blob expands.
//
// A gzip blob decodes to the same bytes as with compress/gzip, and fails at the
// same position, with three exceptions: zero bytes after the last member are
// accepted, names in headers may have any length, and reserved header flags are
// refused, as RFC 1952 requires.
//
// # One member, several cores
//
// DEFLATE refers to the last 32 KiB of output, so decoding cannot start at any
// point. One worker, the front, decodes as a serial decoder does. Each other
// worker starts a MiB of compressed bytes further ahead, where the header of a
// block seems to begin, and decodes symbols of 16 bits. A symbol is a byte, or
// a marker for a byte of the unknown 32 KiB. Once the last 32 KiB of output
// hold no marker, the worker decodes bytes. When the front ends a block exactly
// where another worker started, that worker's guess was right. It becomes the
// front, its symbols are resolved with a table, and the former front starts a
// new segment further ahead. A wrong guess costs only time.
//
// # With an index
//
// [Options].Index lists positions where decoding can start, with their history.
// Workers decode the spans between these positions. Each entry is compared with
// the output before its position, and the index is dropped if an entry is
// wrong, so neither the bytes nor the errors depend on the index. See package
// index.
//
// # Not done here
//
// Digests and limits on the expansion are up to the caller.
package inflate
