// Package flate decodes DEFLATE (RFC 1951) on one core.
//
//	in := flate.NewInput(src)
//	d := flate.NewDecoder(in)
//	for {
//		p, err := d.Next() // io.EOF after the last
//		...
//	}
//
// It does what compress/flate does, three to four times as fast: the same output for
// every stream, and for one that is damaged or cut short the same output before an error
// of the same kind. The speed comes from a bit buffer of a word that is filled by
// whole words, a window that no match or literal in the fast loop can overrun, and
// tables whose entries hold all that a symbol needs. On amd64 with BMI2 the fast loop is
// assembly, elsewhere and with the build tag purego it is Go; both do the same.
//
// # Vocabulary
//
// A block is the unit of DEFLATE, with a code of its own; it may begin at any bit.
// The history are the last 32 KiB of output, into which matches point. A mark is
// the begin of a block: with the history there, decoding can start from it.
//
// # Contract
//
// A Decoder and its Input are used by one goroutine. The Input reads ahead, and
// after io.EOF is exactly behind the stream: what follows is read from it. Damage is
// [ErrCorrupt], a source that ends too early io.ErrUnexpectedEOF, and an error of
// the source is passed on as it is. Memory is fixed: a window of 256 KiB and an
// input of 64.
//
// # Not done here
//
// Framing and checksums, more than one core, preset dictionaries other than a
// stream's own history.
package flate
