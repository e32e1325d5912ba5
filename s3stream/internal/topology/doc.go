// Package topology decides who sends to whom in a broadcast.
//
// It is pure: no goroutine, no clock, no connection. The same members and the
// same shape give the same plan on every machine, so each node derives its own
// parent, children and backup parents from the member list without a
// conversation, and the decisions are tested by the scripts in testdata.
//
// Vocabulary: node 0 is the leader, nodes 1..N are the workers in rank order.
// A node receives every byte from its parent and forwards it to its children.
// The ancestors of a node are its parent, its parent's parent, and so on up to
// the leader; they are also its backup parents, nearest first, because an
// ancestor has received every byte that the node still lacks.
//
//	plan, err := topology.Make(8, topology.Shape{}, topology.Load{Bytes: 1 << 30, BlockBytes: 1 << 20})
//	plan.Parent(3)    // 2: eight workers make a chain
//	plan.Ancestors(3) // [2 1 0]
//
// A Plan is immutable and may be shared; Backups belongs to one goroutine.
package topology
