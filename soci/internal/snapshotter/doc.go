// Package snapshotter is a containerd snapshotter over overlayfs that fetches the
// layers of an image itself: all of them at once, through [soci.Puller], so that
// containerd neither downloads nor unpacks anything.
//
//	s, err := snapshotter.New(snapshotter.Options{Root: "/var/lib/penstock", Puller: puller})
//	if err != nil {
//		return err
//	}
//	defer s.Close()
//	api.RegisterSnapshotsServer(grpcServer, snapshotservice.FromSnapshotter(s))
//
// # Vocabulary
//
// A chain ID names a layer together with everything below it; containerd asks for
// layers by it. A remote Prepare is one whose labels say which image, manifest and
// layer it is for; any other Prepare is ordinary, and containerd fills the
// snapshot. A job is one image being pulled; it has one layer in work for each
// chain ID that is not there yet. A layer is ready when it is extracted, verified
// and in overlay form, but not yet a snapshot; it becomes one when its Prepare
// comes.
//
// # What is promised
//
// Snapshots, mounts and metadata are containerd's own overlay snapshotter and
// metadata store. What a remote Prepare commits has been verified by the digests of the
// manifest it names: chain ID, DiffID, compressed digest, size. Labels alone are never
// believed. The answer is then ErrAlreadyExists: the protocol of remote snapshotters.
//
// Equal layers of images that are pulled at the same time are fetched once. When
// the registry can not be asked, or does not have it, the Prepare is answered as an
// ordinary one: containerd pulls with whatever credentials its client has. Wrong
// bytes are an error, never a reason to try another way.
//
// # On disk
//
//	metadata.db       containerd's metadata store
//	snapshots/ID/fs   snapshots; a fetched one has layer.json beside fs
//	ready/CHAIN/fs    ready layers, with layer.json
//	work/CHAIN/fs     layers in work
//	parts/CHAIN       how far a layer in work is, see [soci.UnpackOptions]
//
// A layer moves from work to ready to snapshots by rename. The file system is
// flushed before it leaves work, and both directories before the metadata store names the snapshot. A layer.json is written before that too, for the
// running system alone: so what has one is whole after a crash, and after a power cut.
// [New] takes over ready layers, and layers in work that can be gone on with, and removes
// everything else.
//
// # Concurrency
//
// A Snapshotter is safe for concurrent use. Lock order: paths, the metadata store's
// transaction, mu, the mutex of the slots. [Snapshotter.Close] ends all jobs and returns when their goroutines
// have ended.
//
// Layers take turns by image, see slots: an image whose bytes trickle in holds up no other one.
//
// # Failures
//
// Errors carry containerd's error types. A job that nobody waits for is cancelled
// after Options.Linger; its ready layers, and those in work as far as they are, stay for
// Options.Keep, so that the next attempt goes on from there.
//
// # Not done here
//
// Lazy loading, ID-mapped layers (those are ordinary), content in containerd's
// store: export and push of an image need its layers fetched again.
package snapshotter
