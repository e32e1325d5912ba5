//penstock:pure

package topology

// leaderTries is how often one worker asks the leader before it gives up. The
// leader is the last resort and may be busy with other orphans, so it gets
// more than the single chance of a relay; a leader that fails three times in
// a row is not going to serve this worker.
const leaderTries = 3

// Backups decides which parent a worker asks next. It walks the worker's
// ancestors, nearest first: a relay that failed or is known to be lost is not
// asked again, the leader is asked up to three times between two successes.
type Backups struct {
	ancestors []int
	out       map[int]bool // relays that failed or were lost
	leader    int          // failures of the leader since the last progress
}

// NewBackups starts at the planned parent of node.
func NewBackups(p Plan, node int) *Backups {
	return &Backups{ancestors: p.Ancestors(node), out: make(map[int]bool)}
}

// Next returns the parent to ask, or false when none is left.
func (b *Backups) Next() (int, bool) {
	for _, a := range b.ancestors {
		if a == Leader && b.leader < leaderTries {
			return a, true
		}
		if a != Leader && !b.out[a] {
			return a, true
		}
	}
	return 0, false
}

// Fail records that node did not deliver.
func (b *Backups) Fail(node int) {
	if node == Leader {
		b.leader++
		return
	}
	b.out[node] = true
}

// Progress records that node delivered new blocks: the leader's earlier
// failures are forgiven, since each was followed by work done.
func (b *Backups) Progress(node int) {
	if node == Leader {
		b.leader = 0
	}
}

// LeaderFailures returns the leader's failures since its last progress; the
// caller backs off by it.
func (b *Backups) LeaderFailures() int { return b.leader }
