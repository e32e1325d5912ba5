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
// With [Options].Workers the members of a gzip blob that has several are decoded by
// as many goroutines, in order and with all checks; they end with Close, which must
// then be called. A blob of one member is not the faster for it.
//
// A gzip blob gives the bytes that compress/gzip gives, and an error where that has
// one, with three exceptions: zero bytes behind the last member are accepted, names
// of any length are too, and reserved header flags are refused, as RFC 1952 asks.
//
// # Not done here
//
// More than one core for one member, indexes and speculation: this is the seam
// behind which they go. Digests and expansion limits are the caller's.
package inflate
