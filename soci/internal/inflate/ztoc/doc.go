// Package ztoc writes zTOCs, the indexes of SOCI.
//
//	z, err := ztoc.New(recorded, blob)
//	z.Files, err = ztoc.Files(tar)
//	data, err := z.Marshal(ztoc.V2)
//
// # Vocabulary
//
// A zTOC is a FlatBuffer that holds a list of the files of the tar, a digest of
// each compressed span, and a checkpoint for each span: where the span begins,
// and the 32 KiB of output before it. Version 1 of the list of checkpoints
// leaves the first checkpoint out.
//
// # Not done here
//
// Reading zTOCs, the manifests that refer to a zTOC, and zTOCs of layers that
// are not compressed.
package ztoc
