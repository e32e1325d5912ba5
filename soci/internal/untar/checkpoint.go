package untar

// Checkpoints lets another process resume an extraction. It needs the
// directory, a saved state, and the archive from an offset on.
//
// A state lists the files that were complete when it was saved. The resumed
// extraction removes every other file, so it does not depend on their content.
// If the caller verifies the digest of the whole archive, including the part
// before the offset, the tree is as trustworthy as after an uninterrupted
// extraction.
type Checkpoints struct {
	// Due is called between entries and reports whether a state should be
	// saved. at is the offset in the archive; the byte before it lies in the
	// block that was read last.
	Due func(at int64) bool
	// Save receives the state at an offset for which Due has just returned
	// true. The files may not have reached the disk yet.
	Save func(at int64, state []byte)
	// Void is called before the extraction changes a file that a saved state
	// may describe. It invalidates all saved states. It may be called from any
	// goroutine, repeatedly.
	Void func()
	// Max bounds the size of a state in bytes, and thereby the memory for
	// saving it. Once a state would be larger, no more states are saved. 0
	// means no bound.
	Max int64

	// From is the state to resume from, or nil to start. With a state, the
	// stream starts at offset At, and the directory holds the files of the
	// earlier extraction.
	From []byte
	At   int64
}
