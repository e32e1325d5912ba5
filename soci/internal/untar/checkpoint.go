package untar

// Checkpoints lets an extraction be taken up again after its process has died: its
// directory, a state, and the archive from an offset on are enough.
//
// A state describes names that were complete when it was saved. All that came later is
// removed by the extraction that goes on, so nothing of it has to be trusted: who holds
// a digest of the whole archive, up to the offset and from there, holds the tree.
type Checkpoints struct {
	// Due is asked between entries, and says whether a state is wanted here. at is the
	// offset in the archive; the last block that was read holds the byte before it.
	Due func(at int64) bool
	// Save takes a state, for the offset that Due was asked for. What has been written
	// so far is with the kernel, not on the disk.
	Save func(at int64, state []byte)
	// Void is called before something is changed that an earlier state may describe: no
	// saved state holds any more. It may come from any goroutine, and more than once.
	Void func()
	// Max bounds a state, in bytes, and with it the memory that saving one takes; when
	// one would be larger, no more are saved. 0 means no bound.
	Max int64

	// From is a state to go on from, nil to begin; the stream then begins at the offset
	// At, and the directory holds what the other extraction left.
	From []byte
	At   int64
}
