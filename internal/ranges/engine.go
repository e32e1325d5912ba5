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
	// Budget bounds the bytes of all buffers. nil: the process's budget.
	Budget *budget.Budget
	// PartBytes is the most that one request of a stream asks for. 0 means 8
	// MiB: large enough that signing, headers and first-byte latency vanish,
	// small enough that a lost one is cheap (S3's guide: 8 to 16 MiB). Streams
	// use smaller parts, down to 2 MiB, where the host answers quicker.
	PartBytes int64
	// TargetRate in bytes a second sets the number of requests to start with.
	// 0 means 1.25e9 (10 Gbit/s): 15 requests at once for each host.
	TargetRate int64
	// MaxConns bounds the requests at once to one host. 0 means 256.
	MaxConns int
	// Hedge and Retry: see their types.
	Hedge HedgePolicy
	Retry RetryPolicy
	// Log receives retries at warn level, at most one line every 10 s for each
	// host, and all retries and hedges at debug level. nil is silent.
	Log *slog.Logger
}

const (
	defaultPart  = 8 << 20
	defaultRate  = 1_250_000_000
	defaultConns = 256
	// minConns is the least number of requests at once: two that stall and
	// their hedges.
	minConns = 4
	// maxPart keeps an offset inside a part in an int on 32-bit systems.
	maxPart = 1 << 30
)

// Validate says what is wrong with the options.
func (o *Options) Validate() error {
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

func (o *Options) setDefaults() {
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
	o.Hedge.setDefaults()
	o.Retry = o.Retry.WithDefaults()
}

// Engine moves ranges of objects under one set of limits. One engine serves a
// whole process: the limits for each host hold over all its objects.
type Engine struct {
	opts    Options
	start   time.Time // all times inside are durations since then
	stats   counters
	fetches sync.Pool // *fetch
	// windows are the open readers that hold memory.
	windows windows

	mu     sync.Mutex // guards gates and closed; taken before a gate's lock
	gates  map[string]*gate
	closed bool
}

// New returns an engine. Close it to end its goroutines.
func New(opts Options) (*Engine, error) {
	if err := opts.Validate(); err != nil {
		return nil, err
	}
	opts.setDefaults()
	return &Engine{opts: opts, start: time.Now(), gates: make(map[string]*gate)}, nil
}

// now is the time since the engine's start.
func (e *Engine) now() time.Duration { return time.Since(e.start) }

// Budget returns the budget of the engine's buffers.
func (e *Engine) Budget() *budget.Budget { return e.opts.Budget }

// PartBytes returns the size of a part in bytes.
func (e *Engine) PartBytes() int64 { return e.opts.PartBytes }

// gate returns the gate of a host and counts one user of it.
func (e *Engine) gate(host string) *gate {
	e.mu.Lock()
	defer e.mu.Unlock()
	g := e.gates[host]
	if g == nil {
		g = newGate(e, host)
		e.gates[host] = g
		if e.closed {
			g.shut()
		}
	}
	return g
}

// Close cancels what is still running and returns when all goroutines of the
// engine have ended.
func (e *Engine) Close() error {
	e.mu.Lock()
	e.closed = true
	gates := make([]*gate, 0, len(e.gates))
	for _, g := range e.gates {
		gates = append(gates, g)
	}
	e.mu.Unlock()
	for _, g := range gates {
		g.shut()
	}
	for _, g := range gates {
		g.wg.Wait()
	}
	return nil
}
