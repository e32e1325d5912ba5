// Package ring holds the blocks that a node has received and not yet passed
// on: one producer, several consumers at their own pace, a fixed capacity.
//
// The node's input puts items in order; the sink and each child have a Cursor
// that takes them. An item stays until every cursor has let go of it, so the
// slowest consumer holds the producer back and memory never exceeds the
// capacity. What a child lets go of is not what it has received, but what its
// own children have received too (wire.State.Low): when the child dies, its
// children find all that they lack here.
//
//	head                the next item to come
//	floor               min of what cursors and holds still need; head if none
//	oldest              the oldest item that is still here
//
//	oldest <= floor <= head <= oldest + capacity
//
// Items below the floor stay until their slot is needed: a node that comes
// late may still find them.
//
// When a child leaves without having everything, its children are about to
// come. Leave keeps a hold at the child's low mark until as many consumers
// have attached as it had children, or a grace period is over.
//
// # Contract
//
// Put and Finish belong to one goroutine; each Cursor belongs to one goroutine
// for Next and one for Ack; everything else may be called from anywhere. All
// waiting ends with its context or with Close.
//
// No deadlock: the producer waits only for a cursor or a hold at the floor.
// A cursor's consumer waits for the producer only when it is at head, and then
// its low mark can lag only by what its own acknowledgements have not told yet,
// which the protocol keeps below a quarter of the capacity. A hold ends by its
// grace period.
package ring
