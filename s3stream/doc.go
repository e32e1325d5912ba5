// Package s3stream reads S3 objects once per job and gives them to every node
// of it.
//
// When a thousand nodes start a job, each of them reading the same weights
// from S3 costs a thousand times the requests and runs at what the store
// allows. Here one node, the leader, reads each object once, by parallel
// ranged GETs, and the others pass the blocks on among themselves over TCP:
// each receives every byte once and sends it at most a few times.
//
//	leader, err := s3stream.NewLeader(s3stream.LeaderOptions{URIs: []string{"s3://models/llama/"}, Workers: 8})
//	report, err := leader.Run(ctx)                       // on the first node
//
//	worker, err := s3stream.NewWorker(s3stream.WorkerOptions{Leader: "node-0", Output: s3stream.Output{Dir: "/dev/shm/llama"}})
//	report, err := worker.Run(ctx)                       // on the others; nil: everything is there and verified
//
//	report, err := s3stream.Get(ctx, s3stream.GetOptions{...}) // on a single node, without a leader
//
// # Vocabulary
//
// A job sends the objects of one manifest: each pinned to its ETag or version
// before the first byte moves. An object travels as blocks (1 MiB by default)
// and an end that carries its checksum; both are items, numbered through the
// whole job, so that one number says how far a node is. A node's parent sends
// to it, its children receive from it; its ancestors are its backup parents. A
// ring is where a node holds the items that a child, or a child of a child,
// may still need; it is as large as Memory allows.
//
//	S3 --ranged GETs--> leader --blocks--> worker 1 --blocks--> worker 2 ...
//	                      |                  |                    |
//	                   (output)            output               output
//
// Small groups form a chain, which gives every node the full rate of its link;
// large ones with little to send form a tree, which fills faster.
//
// # What is verified
//
// The engine checks status, range, length and validator of every answer, and
// the object's own checksum if the store has one of the whole object (CRC64NVME
// or CRC32C). Every block has a CRC32C that every hop checks before it passes
// the block on. The leader sends each worker the size and CRC32C of every object
// over its own connection, and a file appears only when the object agrees with
// that and with the store's checksum: a node in between computes the sums that
// it passes on, so they prove nothing about itself. At the end the leader
// compares one hash over everything with each worker's, and ends the job of a
// worker that differs with an error.
//
// # Failure model
//
//   - A worker dies, or its network does: its children go to its parent, which
//     holds what they lack; no byte is read again. The leader reports it and
//     returns ErrIncomplete when the others have everything. If several
//     neighbours die at once, the leader may have to read some blocks again.
//   - A block is damaged on the way: the receiver names the peer, object and
//     offset (Report.Repairs) and asks the next backup parent.
//   - A worker takes no data for the stall timeout although nobody below holds
//     it up: its parent cuts it off by name, and the leader gives it up if it
//     does not go on for as long again. A worker that is only slow slows the
//     job down to its pace.
//   - The leader dies: every worker fails with ErrLeaderLost within the stall
//     timeout, at once if the connection breaks.
//   - An object changes while it is read: everybody fails with ErrChanged, or
//     finishes with the old bytes where the bucket keeps versions and the
//     identity may read them (s3:GetObjectVersion, which no read requires).
//   - A node in between alters data, by damage in its memory or on purpose: the
//     worker below fails with ErrChecksum and names it; no file appears.
//   - A file appears whole, by rename, or not at all. A process that is killed
//     leaves at most one file whose name starts with ".penstock-"; the next run
//     into the same directory removes it. Files are not synced unless
//     Output.Sync is set: without it a power cut may leave empty ones.
//   - A panic while a job runs, also in a callback, is that job's error
//     ("internal error", with the stack). The process goes on.
//
// Errors are *Error with the step, peer, object and offset, and match the
// sentinels of this package through errors.Is, also at the nodes that were only
// told of the failure.
//
// # Concurrency
//
// A Leader, Worker or Get is one run; several may run in one process. Run
// returns when all its goroutines have ended, and within a second when its
// context ends (unless an io.Writer or callback of the caller blocks). Progress
// and OnBlock are called from one goroutine at a time.
//
// # Security
//
// Members prove with an HMAC that they share Token; the token itself does not
// travel. A listener that other machines reach needs a token, unless Insecure
// says that the network is trusted. A connection that has not proven itself may
// take two seconds, and a quarter of the 256 places is the most for one host;
// the oldest makes room for a new one. The data is neither encrypted nor
// authenticated after the handshake: an attacker on the path between two members
// can read and alter it, so run it inside the cluster's own network. Members with
// the token are trusted not to forge CRC32Cs; LeaderOptions.Digest proves the
// objects against such a member too.
//
// Texts that another node sends appear in errors, logs and reports with control
// characters escaped. All members need the same version of the protocol: replace
// the programs of a job at once.
//
// # Not here
//
// Workers that join after the start, a successor for a dead leader, stripes
// over several trees, racks. Uploads. FUSE.
package s3stream
