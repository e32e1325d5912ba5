package fastpath

import (
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"sync/atomic"
	"time"
)

// ErrUnsupported is returned by Listen where there is no fast path.
var ErrUnsupported = errors.New("the fast path needs Linux")

const (
	// MaxPacket is the longest packet that is received and the longest reply
	// that is sent, in bytes. Queries have 30 to 300; replies above 4,096 are
	// beyond what resolvers ask for over UDP (flag day 2020: 1,232).
	MaxPacket = 4096

	// stride is the distance between the buffers of a batch. With a power of
	// two, the heads of all buffers, which hold the packets, would share one
	// set of the first-level cache.
	stride = MaxPacket + 128

	// DefaultBatch is the default of Options.Batch; dnsplugin.DefaultBatch says
	// why.
	DefaultBatch = 64

	// receiveBuffer is how many bytes the kernel may queue for a socket: about
	// 5,000 small packets, 25 ms of work for a worker at full speed. Answers to
	// a longer queue would come too late, and a shorter queue loses packets of
	// a burst.
	receiveBuffer = 4 << 20

	// receiveWait is how long a worker waits for a packet before it checks
	// whether its socket is being closed.
	receiveWait = time.Second

	// line is the distance at which writes of one core do not slow down reads
	// of another. It is two cache lines, because they are fetched in pairs.
	line = 128
)

// Handler serves batches of packets.
type Handler interface {
	// Serve looks at every packet of b and sets the replies that it knows. It
	// must not keep b or its bytes. worker is the number of the worker, from 0
	// to Options.Workers-1.
	//
	// Serve returns true. If another goroutine has called b.Resume, it returns
	// false, and must not have used b since.
	Serve(worker int, b *Batch) bool
}

// Options of a Group. The zero value is ready for use.
type Options struct {
	Workers int // number of sockets, each with a goroutine; 0 means DefaultWorkers
	Batch   int // packets taken from a socket at once; 0 means DefaultBatch
	// Unsteered lets the kernel choose among all sockets of the address.
	Unsteered bool
	// Report is called with a sentence for the log when the state of the
	// sockets has changed since Listen. better tells whether it has improved.
	// Report may be called from any goroutine, and may be nil.
	Report func(better bool, text string)
}

// Validate returns an error if an option is out of range.
func (o Options) Validate() error {
	if o.Workers < 0 || o.Batch < 0 {
		return fmt.Errorf("fastpath: %d workers with batches of %d: give positive numbers, or 0 for the defaults", o.Workers, o.Batch)
	}
	return nil
}

// DefaultWorkers returns the number of CPUs that Go may use: GOMAXPROCS obeys
// the limit of the cgroup, NumCPU the affinity of the process.
func DefaultWorkers() int { return min(runtime.GOMAXPROCS(0), runtime.NumCPU()) }

func (o Options) withDefaults() Options {
	if o.Workers == 0 {
		o.Workers = DefaultWorkers()
	}
	if o.Batch == 0 {
		o.Batch = DefaultBatch
	}
	return o
}

// holder lets handlers of different types be swapped atomically.
type holder struct{ Handler }

// Counts are what a group has seen since Listen.
type Counts struct {
	// Packets. Unsent are the replies that the kernel did not accept, including
	// replies of Origin.Send.
	Received, Sent, Unsent uint64
	Batches                uint64
}

// counts are written by one worker, once per batch, and read by any goroutine.
type counts struct {
	received, sent, unsent, batches atomic.Uint64
}

// Peer returns the address that o came from.
func (o *Origin) Peer() netip.AddrPort { return o.peer() }
