// Package checkpoint keeps the state of an unfinished layer in a file, from
// which a later attempt resumes.
//
//	f := checkpoint.NewFile(path, every, maxState)
//	f.Open(layer)            // reads the state that an earlier attempt saved
//	state := f.Resume()      // nil: start at the beginning
//	err := f.Save(state)
//
// A file holds one State in JSON, after a line with its checksum. It is
// replaced atomically but not flushed, so it counts only until the system
// reboots.
//
// # Why resuming is safe
//
// State.DiffHash is the state of the DiffID for exactly the tar bytes before
// State.Tar, and the extraction removes everything from the directory that
// later bytes had created. So the final DiffID covers exactly the bytes that
// made the tree, whichever host sent them and even if other fields of the State
// are wrong. The digest of the blob continues from State.BlobHash; bytes that
// are fetched again because decoding starts at an earlier Point are not hashed
// twice.
//
// # Concurrency
//
// A File belongs to one attempt and is used by one goroutine at a time.
//
// # Not done here
//
// Deciding when a checkpoint is due and collecting its parts; see package flow.
package checkpoint
