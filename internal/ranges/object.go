package ranges

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Spec is the caller's knowledge of an object before its first request.
type Spec struct {
	// Name identifies the object in messages. It must hold no secret.
	Name string
	// Host is the key of the limits, which all objects of one Host share.
	Host string
	// Size in bytes; negative when unknown.
	Size int64
	// Pin is the validator that every answer must have; if empty, the first
	// answer's validator becomes the pin.
	Pin string
	// Outage replaces the engine's RetryPolicy.Outage for this object; 0 keeps it.
	Outage time.Duration
	// Sum is the checksum of the whole object, or the zero Checksum.
	Sum Checksum
}

// Object is one immutable version of one remote object. Its methods may be
// called from any number of goroutines.
type Object struct {
	e    *Engine
	g    *gate
	src  Source
	spec Spec // as given; the fields below hold later knowledge

	mu   sync.Mutex // guards size, pin, sum and standIn; a leaf lock
	size int64      // -1 if unknown
	pin  string
	sum  Checksum
	// standIn is the first Info.StandIn; answers that can't be compared with pin
	// are compared with it.
	standIn string

	noRanges atomic.Bool // the last answer to a range was the whole object
	reads    sharedReads

	arrived atomic.Int64
}

// Arrived returns how many bytes of bodies have been received for the object,
// also for incomplete parts. Bytes received twice count twice.
func (o *Object) Arrived() int64 { return o.arrived.Load() }

// Object returns a handle for reading from src.
func (e *Engine) Object(src Source, spec Spec) *Object {
	if spec.Size < 0 {
		spec.Size = -1
	}
	o := &Object{e: e, g: e.gate(spec.Host), src: src, spec: spec, size: spec.Size, pin: spec.Pin, sum: spec.Sum}
	o.reads.o = o
	return o
}

// retryPolicy is the policy for requests of this object.
func (o *Object) retryPolicy() RetryPolicy {
	p := o.e.opts.Retry
	if o.spec.Outage != 0 {
		p.Outage = o.spec.Outage
		p = p.WithDefaults()
	}
	return p
}

func (o *Object) pinned() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.pin
}

// known returns the object's size, or -1, and its checksum, if known.
func (o *Object) known() (size int64, sum Checksum) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.size, o.sum
}

// observe compares an answer with the object and learns from it. The first answer
// pins the object. A later answer with another validator means that the object
// has changed. An answer of another size is a failed attempt if it has no
// validator, as the error page of a proxy has none, and WrongSize if it has the
// right one. Neither failure is remembered; it says nothing about the next answer.
func (o *Object) observe(info Info) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if info.Pin != "" && o.pin != "" && !SamePin(info.Pin, o.pin) {
		return &Fault{Kind: Changed, Err: fmt.Errorf("%w: pinned to %s, got %s", ErrChanged, o.pin, info.Pin)}
	}
	if info.Pin == "" && info.StandIn != "" && o.standIn != "" && info.StandIn != o.standIn {
		return &Fault{Kind: Changed, Err: fmt.Errorf("%w: an answer had %s, another %s", ErrChanged, o.standIn, info.StandIn)}
	}
	if info.Size >= 0 && o.size >= 0 && info.Size != o.size {
		kind := Retryable
		if info.Pin != "" {
			kind = WrongSize
		}
		return &Fault{Kind: kind, Fresh: true, Err: fmt.Errorf("answer is about an object of %d bytes, this one has %d", info.Size, o.size)}
	}
	if info.Pin != "" && (o.pin == "" || !strings.HasPrefix(info.Pin, PinETag+"W/")) {
		o.pin = info.Pin // later requests send the spelling of the object's own answer
	}
	if info.Pin == "" && o.standIn == "" {
		o.standIn = info.StandIn
	}
	if o.size < 0 {
		o.size = info.Size
	}
	if info.Sum.Algorithm != NoChecksum && o.sum.Algorithm == NoChecksum {
		o.sum = info.Sum
	}
	return nil
}
