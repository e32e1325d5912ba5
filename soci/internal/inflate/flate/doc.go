// Package flate decodes DEFLATE (RFC 1951) on one core.
//
//	in := flate.NewInput(src)
//	d := flate.NewDecoder(in)
//	for {
//		p, err := d.Next() // io.EOF after the last
//		...
//	}
//
// It behaves like compress/flate and is three to four times as fast: the output
// of every stream is the same, and a stream that is damaged or cut short yields
// the same output before an error of the same kind. The speed comes from three
// things: the bit buffer is one word and is filled by loading whole words; the
// window is so padded that the fast loop needs no bounds check for a literal or
// match; and one table entry holds everything that is needed to decode a
// symbol. On amd64 with BMI2 the fast loop is written in assembly; elsewhere,
// and with the build tag purego, it is an equivalent loop in Go.
//
// # Vocabulary
//
// A block is the unit of DEFLATE. It has its own code and may start at any bit.
// The history is the last 32 KiB of output, which matches refer to. A mark is
// the start of a block; given its history, decoding can start there.
//
// # Contract
//
// One goroutine uses a Decoder and its Input. The Input reads ahead. After
// io.EOF its position is the end of the stream, so the bytes that follow can be
// read from it. The error for damaged data is [ErrCorrupt], and for a source
// that ends too early io.ErrUnexpectedEOF. Errors of the source pass through
// unchanged. Memory is fixed: a window of 256 KiB and an input of 64 KiB.
//
// # Not done here
//
// Framing, checksums, concurrency, and preset dictionaries other than the
// history of the stream.
package flate
