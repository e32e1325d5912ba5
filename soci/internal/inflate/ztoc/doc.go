// Package ztoc reads and writes zTOCs, the indexes of SOCI.
//
//	z, err := ztoc.Parse(data)
//	r, err := inflate.NewReader(blob, inflate.Options{Index: z.Index, Workers: 8})
//
//	z, err = ztoc.New(recorded, blob)
//	z.Files, err = ztoc.Files(tar)
//	data, err = z.Marshal(ztoc.V2)
//
// # Vocabulary
//
// A zTOC is a FlatBuffer with a list of the files of the tar, digests of the compressed
// spans, and a checkpoint for each: where it begins and the 32 KiB of output before. A
// blob of checkpoints of the first version leaves the first one out; the version is told
// by its length.
//
// # Contract
//
// A zTOC is not covered by any digest of an image: what it says is a hint, as with any
// index. Its size of the output may lack the padding of the tar and is not used. Parse
// takes any bytes and holds no more than a few times as many.
//
// # Failures
//
// [ErrFormat]: the bytes are no zTOC of a gzip layer.
//
// # Not done here
//
// The manifests that lead to a zTOC, and zTOCs of layers that are not compressed.
package ztoc
