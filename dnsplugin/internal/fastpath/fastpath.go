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

	// stride is the distance of the buffers of a batch. A power of two would
	// put the head of every buffer, the part that is used, into one set of the
	// first-level cache.
	stride = MaxPacket + 128

	// DefaultBatch is explained at dnsplugin.DefaultBatch.
	DefaultBatch = 64

	// receiveBuffer is how many bytes the kernel may queue for a socket: about
	// 5,000 small packets, 25 ms of work for a worker at full speed. More
	// would be answered too late to be of use, less is lost in a burst.
	receiveBuffer = 4 << 20

	// receiveWait is how long a worker waits for a packet before it looks
	// whether its socket is being closed.
	receiveWait = time.Second

	// line is the distance at which two cores don't disturb one another:
	// cache lines of 64 bytes are fetched in pairs.
	line = 128
)

// Handler serves batches of packets.
type Handler interface {
	// Serve looks at every packet of b and sets the replies that it knows. It
	// keeps no reference to b or its bytes. worker is below Options.Workers.
	//
	// It returns true, or false after another goroutine has called b.Resume:
	// then b is no longer its own.
	Serve(worker int, b *Batch) bool
}

// Options of a Group. The zero value is ready for use.
type Options struct {
	Workers int // sockets with a thread each; 0: one per CPU, see DefaultWorkers
	Batch   int // packets taken from a socket at once; 0: DefaultBatch
	// Unsteered leaves it to the kernel which sockets of the address get packets.
	Unsteered bool
	// Report is called with a sentence for the log, from any goroutine, when
	// something has changed since Listen, for the better or not. It may be nil.
	Report func(better bool, text string)
}

// Validate says what is wrong with the options.
func (o Options) Validate() error {
	if o.Workers < 0 || o.Batch < 0 {
		return fmt.Errorf("fastpath: %d workers with batches of %d: give positive numbers, or 0 for the defaults", o.Workers, o.Batch)
	}
	return nil
}

// DefaultWorkers is the number of CPUs that Go may use: GOMAXPROCS heeds the
// limit of the cgroup, NumCPU the affinity of the process. More threads than
// CPUs would only take each other's time.
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
	Received, Sent, Unsent uint64 // packets; Unsent: replies that the kernel did not take, those of Origin.Send too
	Batches                uint64
}

// counts are written by one worker, once per batch, and read by anyone.
type counts struct {
	received, sent, unsent, batches atomic.Uint64
}

// Peer returns the address that o came from.
func (o *Origin) Peer() netip.AddrPort { return o.peer() }
