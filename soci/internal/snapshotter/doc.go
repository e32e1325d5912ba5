// Package snapshotter is a containerd snapshotter over overlayfs that fetches
// all layers of an image itself, concurrently, through [soci.Puller].
// containerd neither downloads nor unpacks them.
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
// A chain ID names a layer together with all layers below it; containerd
// requests layers by chain ID. A remote Prepare has labels that name its image,
// manifest and layer; any other Prepare is ordinary, and containerd fills the
// snapshot. A job is one image being pulled. It has one layer in work for each
// missing chain ID. A layer is ready when it is extracted, verified and in
// overlay form. Its Prepare then turns it into a snapshot.
//
// # Guarantees
//
// Snapshots, mounts and metadata belong to containerd's own overlay snapshotter
// and metadata store. A remote Prepare commits only layers that match the
// manifest it names by chain ID, DiffID, compressed digest and size; labels
// alone are never trusted. It then answers ErrAlreadyExists, as the protocol of
// remote snapshotters requires.
//
// Equal layers of images that are pulled concurrently are fetched once. If the
// registry cannot be reached, or lacks the layer, the Prepare is answered as an
// ordinary one, and containerd pulls with the credentials of its client. Wrong
// bytes are an error and never lead to another attempt by containerd.
//
// # On disk
//
//	metadata.db       containerd's metadata store
//	snapshots/ID/fs   snapshots; a fetched one has layer.json next to fs
//	ready/CHAIN/fs    ready layers, with layer.json
//	work/CHAIN/fs     layers in work
//	parts/CHAIN       the checkpoint of a layer in work, see [soci.UnpackOptions]
//
// A layer moves from work to ready to snapshots by rename. The file system is
// flushed before the layer leaves work, and both directories before the
// metadata store names the snapshot. Before the flush, a layer.json is written
// that is valid only until the system reboots. So a layer with a valid
// layer.json is whole, after a crash and after a power cut. [New] takes over
// ready layers and layers in work with a checkpoint, and removes everything
// else.
//
// # Concurrency
//
// A Snapshotter is safe for concurrent use. Lock order: paths, the metadata
// store's transaction, mu, the mutex of the slots. [Snapshotter.Close] ends all
// jobs and returns when their goroutines have ended.
//
// Images share the slots for layers fairly, see slots, so that an image with a
// slow registry does not delay other images.
//
// # Failures
//
// Errors carry containerd's error types. A job that no caller waits for is
// cancelled after Options.Linger. Its ready layers, and the checkpoints of the
// layers in work, stay for Options.Keep, so that the next attempt resumes from
// them.
//
// # Not done here
//
// Lazy loading; ID-mapped layers, whose Prepare counts as ordinary; and content
// in containerd's store, so that export and push of an image fetch its layers
// again.
package snapshotter
