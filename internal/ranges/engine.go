package ranges

import (
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/penstock/penstock/internal/budget"
)

// Options configures an [Engine]. The zero value works.
type Options struct {
	// Budget bounds the bytes of all buffers; nil means the process's budget.
	Budget *budget.Budget
	// PartBytes is the largest request of a stream. 0 means 8 MiB, which is large
	// enough that signing, headers and first-byte latency hardly count, and small
	// enough that a lost part is cheap (S3's guide recommends 8 to 16 MiB).
	// Streams use smaller parts, down to 2 MiB, if the host answers faster.
	PartBytes int64
	// TargetRate in bytes a second sets the number of requests to start with.
	// 0 means 1.25e9 (10 Gbit/s), which is 15 concurrent requests for each host.
	TargetRate int64
	// MaxConns bounds the concurrent requests to one host. 0 means 256.
	MaxConns int
	// Hedge and Retry are the policies for late and for failed requests.
	Hedge HedgePolicy
	Retry RetryPolicy
	// Log receives retries at warn level, at most one line every 10 s for each
	// host, and all retries and hedges at debug level. nil discards them.
	Log *slog.Logger
}

const (
	defaultPart  = 8 << 20
	defaultRate  = 1_250_000_000
	defaultConns = 256
	// minConns is the least number of concurrent requests, enough for two that
	// stall and for their hedges.
	minConns = 4
	// maxPart lets an int hold an offset inside a part on 32-bit systems.
	maxPart = 1 << 30
)

// Validate reports the first mistake in the options, and how to correct it.
func (o Options) Validate() error {
	switch {
	case o.PartBytes < 0 || o.PartBytes > maxPart:
		return fmt.Errorf("part size %d is out of range: use 0 (8 MiB) or 1 to %d bytes", o.PartBytes, maxPart)
	case o.TargetRate < 0:
		return fmt.Errorf("target rate %d bytes/s is negative: use 0 for 10 Gbit/s", o.TargetRate)
	case o.MaxConns < 0 || o.MaxConns > 0 && o.MaxConns < 2:
		return fmt.Errorf("%d connections for each host: use 0 for %d, or at least 2 (one may stall)", o.MaxConns, defaultConns)
	case o.Hedge.Quantile >= 1:
		return fmt.Errorf("hedge quantile %g: use 0 for 0.95, a negative number for no hedges, or less than 1", o.Hedge.Quantile)
	case o.Hedge.Budget < 0 || o.Hedge.Budget > 1:
		return fmt.Errorf("hedge budget %g: use 0 for 0.05, or a share of all requests up to 1", o.Hedge.Budget)
	case o.Hedge.Floor < 0:
		return fmt.Errorf("negative duration in the hedge policy (floor %v): use 0 for the default", o.Hedge.Floor)
	}
	return o.Retry.Validate()
}

// withDefaults returns the options with their zero fields filled in.
func (o Options) withDefaults() Options {
	if o.Budget == nil {
		o.Budget = budget.Process()
	}
	if o.PartBytes == 0 {
		o.PartBytes = defaultPart
	}
	if o.TargetRate == 0 {
		o.TargetRate = defaultRate
	}
	if o.MaxConns == 0 {
		o.MaxConns = defaultConns
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	o.Hedge = o.Hedge.withDefaults()
	o.Retry = o.Retry.WithDefaults()
	return o
}

// Engine moves ranges of objects under one set of limits. Its limits for a host
// hold over all objects of that host, so a process that makes several engines
// multiplies them. An Engine is safe for concurrent use.
type Engine struct {
	opts    Options
	start   time.Time // the engine's times are durations since start
	stats   counters
	fetches sync.Pool // *fetch
	windows windows   // of the open readers

	mu     sync.Mutex // guards gates and closed; taken before a gate's lock
	gates  map[string]*gate
	closed bool
}

// New returns an engine. Close it to end its goroutines.
func New(opts Options) (*Engine, error) {
	if err := opts.Validate(); err != nil {
		return nil, err
	}
	opts = opts.withDefaults()
	return &Engine{opts: opts, start: time.Now(), gates: make(map[string]*gate)}, nil
}

// now is the time since the engine's start.
func (e *Engine) now() time.Duration { return time.Since(e.start) }

// Budget returns the budget of the engine's buffers.
func (e *Engine) Budget() *budget.Budget { return e.opts.Budget }

// gate returns the gate of a host, and makes it on first use.
func (e *Engine) gate(host string) *gate {
	e.mu.Lock()
	defer e.mu.Unlock()
	g := e.gates[host]
	if g == nil {
		g = newGate(e, host)
		e.gates[host] = g
		if e.closed {
			g.close()
		}
	}
	return g
}

// Close cancels all requests and returns when all goroutines of the engine have
// ended. Later requests fail with [ErrClosed].
func (e *Engine) Close() error {
	e.mu.Lock()
	e.closed = true
	gates := make([]*gate, 0, len(e.gates))
	for _, g := range e.gates {
		gates = append(gates, g)
	}
	e.mu.Unlock()
	for _, g := range gates {
		g.close()
	}
	for _, g := range gates {
		g.wg.Wait()
	}
	return nil
}
