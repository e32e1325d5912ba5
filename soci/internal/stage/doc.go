// Package stage manages the hidden directory in which a pull builds an image
// before the image becomes visible at its target.
//
//	s, err := stage.Open(target, false)
//	... unpack layers into s.Layer(name), record each with s.Finish ...
//	err = s.Commit(tree)
//	err = s.Close(false)
//
// The directory lies next to the target, on the same file system, and carries
// the target's name, so that the next pull of that target finds the layers
// that a killed process had finished:
//
//	lock      locked while a process works here; the kernel drops the lock
//	          when the process ends
//	journal   one line for each finished layer
//	layers/   a directory for each layer
//	parts/    checkpoints of unfinished layers
//
// If the target is a mount point, or its parent is not writable, the directory
// lies inside the target, and Commit moves the tree entry by entry.
//
// # Concurrency
//
// A Stage belongs to one pull. Its methods must not be called concurrently,
// except for Layer and Checkpoint. The lock keeps other pulls out.
//
// # Not done here
//
// The content of the layers and of the checkpoints, and the decision whether a
// failed pull keeps its stage.
package stage
