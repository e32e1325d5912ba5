// Package tree decides how the flat keys of a bucket look as directories and files. It is pure: no I/O, no clock, no goroutine.
//
//	name, kind, ok := tree.Child("data/", "data/train/0001.bin") // "train", Dir, true
//	var m tree.Merger[int64]
//	for _, e := range listing { // one LIST with delimiter "/"
//		m.Add(name, kind, e.Size, emit)
//	}
//	m.Flush(emit)
//
// # Vocabulary
//
// A key is the name of an object. A component is what stands between two slashes of a key. A prefix ends in "/" or is
// empty and stands for a directory. A name is one component as a file system shows it.
//
// # Rules
//
// A key under a prefix makes one directory for each component but the last, and one file for the last. A key that
// ends in "/" makes directories only (its bytes, if any, can't be reached). Where a directory and a file have the same
// name, the directory wins, because hiding it would hide everything below it. A component that no file system can
// carry ([ValidName]) hides the rest of its key; the directories above it still exist.
//
// # Concurrency and failure
//
// Functions are safe for any use in parallel. A [Merger] belongs to one goroutine. The only failure is [ErrOrder]: a
// listing that is not in byte order has more names than the merger keeps.
//
// # Non-goals
//
// No unicode normalisation, no case folding, no escaping of names: a name is the bytes of the key.
package tree
