// Package tarfile reads tar archives without copying their content.
//
//	r := tarfile.NewReader(blocks, tarfile.Options{})
//	defer r.Close()
//	for {
//		h, err := r.Next(ctx) // io.EOF at the end
//		data, piece, err := r.Content(ctx, h.Stored)
//		...
//	}
//
// archive/tar copies the content, expands the holes of sparse files into zeros,
// and allocates for each header. This reader returns content as slices of the
// blocks of a [BlockReader], returns the map of a sparse file instead of its
// zeros, and allocates only the strings of a header.
//
// # Vocabulary
//
// An archive is a sequence of blocks of 512 bytes. An entry is a header block
// and the content that follows it. Extended headers, global headers and GNU
// long names are entries that describe other entries; Next applies them and
// does not return them. A [Piece] is a block of the stream that the content of
// several entries may lie in.
//
// # Contract
//
// A Reader reads the formats of version 7, POSIX ustar and pax, GNU tar and
// star. It reads every archive that it accepts as archive/tar does, except that
// it applies global headers, as GNU tar does. Memory is bounded for any input:
// an extended header or long name takes at most 1 MiB, and the map of a sparse
// file has at most a million extents, which are charged to Options.Charge.
//
// # Failures
//
// Errors wrap [ErrFormat] if the archive is malformed, and [ErrLimit] if it
// exceeds a bound. Errors of the stream pass through unchanged.
//
// # Not done here
//
// Paths are neither cleaned nor checked, and no file is extracted. Package
// untar does both.
package tarfile
