package untar

// Checkpoints lets another process resume an extraction. It needs the
// directory, a saved state, and the archive from an offset on.
//
// A state describes the names that were complete when it was saved. The resumed
// extraction removes all others, so it need not trust them. If the caller
// verifies the digest of the whole archive, before and after the offset, the
// tree is as correct as without resuming.
type Checkpoints struct {
	// Due is called between entries and reports whether a state should be
	// saved. at is the offset in the archive; the last block that was read
	// holds the byte before it.
	Due func(at int64) bool
	// Save receives a state for the offset of the last call of Due. The files
	// may not have reached the disk yet.
	Save func(at int64, state []byte)
	// Void is called before the extraction changes a file that a saved state
	// may describe. It invalidates all saved states. It may be called from any
	// goroutine, repeatedly.
	Void func()
	// Max bounds a state in bytes, and so the memory for saving it. Once a
	// state would be larger, no more states are saved. 0 means no bound.
	Max int64

	// From is the state to resume from, or nil to start. With a state, the
	// stream starts at offset At, and the directory holds the files of the
	// earlier extraction.
	From []byte
	At   int64
}
