// Package inflate turns the compressed bytes of a layer into its tar stream.
//
//	r, err := inflate.NewReader(blob, inflate.Options{})
//	defer r.Close()
//	io.Copy(dst, r) // the tar
//
// # Vocabulary
//
// The format is what the first bytes say (gzip, zstd, or none of both: a plain
// tar), not what a media type claims: builders get it wrong, and the digests hold
// either way. A member is one gzip stream of several in a blob.
//
// # Contract
//
// A Reader is used by one goroutine. It reads its source to the end: what follows
// the last member may be zero bytes only. CRC-32 and length of every gzip member
// and the checksum of every zstd frame are verified before io.EOF. Errors of the
// source pass through unchanged; damage is [ErrCorrupt].
//
// With [Options].Workers a blob is decoded by as many goroutines, in order and
// with all checks; they end with Close, which must then be called and returns at once
// (when no read of the source hangs, for only the goroutine that reads does that).
// How is decided by what comes: members that follow each other in short distance are
// decoded as a whole each, one long member by several workers, the first MiB of each
// and everything short serially. The frames of a zstd blob that has many are, too, in runs
// of whole frames; a frame that is long is decoded serially, with what follows. Memory is bounded by [WorkerMemory] for each, however
// far a blob expands.
//
// A gzip blob gives the bytes that compress/gzip gives, and an error where that has
// one, with three exceptions: zero bytes behind the last member are accepted, names
// of any length are too, and reserved header flags are refused, as RFC 1952 asks.
//
// # One member, several cores
//
// DEFLATE refers to the last 32 KiB of output, so that decoding can't begin anywhere.
// One worker, the front, decodes as ever. The others begin a MiB of compressed bytes
// further on each, at what looks like the header of a block, and decode symbols of
// 16 bits, which are bytes or stand for one of the unknown 32 KiB; once those are out
// of sight, they go on with bytes. When the front ends a block where another worker
// began, its guess was right: it becomes the front, whatever it has decoded is
// resolved with a table, and the former front begins anew. A wrong guess costs time only.
//
// # With an index
//
// [Options].Index says where blocks begin and what the history is there, and workers
// decode the spans between. What it says is compared with what was decoded before, and
// it is dropped where it is wrong: no byte and no error depends on it. Package index
// has more.
//
// # Not done here
//
// Digests and expansion limits are the caller's.
package inflate
