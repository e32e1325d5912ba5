// Package stargz makes an index of the table of contents that an eStargz layer carries.
//
//	x, err := stargz.Index(blob, size)
//	r, err := inflate.NewReader(stream, inflate.Options{Index: x, Workers: 8})
//
// # Vocabulary
//
// An eStargz layer is a gzip blob of many members, one for a file or a part of a large
// one. Its table of contents is a member, too, and its footer, the last one, says where
// that is.
//
// # Contract
//
// The table is a hint, as any index.
//
// # Failures
//
// [ErrFormat]: the blob has no footer or no table of contents.
//
// # Not done here
//
// The content of the table beyond where members begin: files are read from the tar.
package stargz
